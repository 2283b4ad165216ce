//! The presets: config.json and the list of tensors that goes with it.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Preset;

/// What fills a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// Uniform with the variance that keeps activations of unit size: 1 / inputs.
    Weight,
    /// As [`Fill::Weight`], but zero in the rows of tokens that are no text.
    Head,
    /// Uniform of unit variance.
    Embedding,
    /// Ones.
    Norm,
    /// Small f32 values around zero.
    Bias,
    /// Random e4m3.
    Fp8,
    /// This f32 value: the scale of every block of an e4m3 tensor.
    Scale(f32),
}

impl Fill {
    /// As safetensors names it, and its bytes.
    pub fn dtype(self) -> (&'static str, u64) {
        match self {
            Self::Bias | Self::Scale(_) => ("F32", 4),
            Self::Fp8 => ("F8_E4M3", 1),
            _ => ("BF16", 2),
        }
    }
}

/// Rows and columns that share a scale in DeepSeek's FP8 checkpoints.
const FP8_BLOCK: usize = 128;
/// Root mean square of e4m3 numbers whose bits are random, NaN left out.
const FP8_RMS: f32 = 100.06;

/// A tensor to be written.
#[derive(Debug, Clone)]
pub(super) struct TensorShape {
    pub name: String,
    pub shape: Vec<usize>,
    pub fill: Fill,
}

impl TensorShape {
    pub fn num_values(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn num_bytes(&self) -> u64 {
        self.num_values() as u64 * self.fill.dtype().1
    }
}

/// Sizes of a DeepSeek-style model.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    model_type: &'static str,
    vocab: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    q_lora: Option<usize>,
    kv_lora: usize,
    nope: usize,
    rope: usize,
    value: usize,
    inner: usize,
    moe_inner: usize,
    experts: usize,
    shared: usize,
    top_k: usize,
    groups: usize,
    top_groups: usize,
    scale: f64,
    dense: usize,
    mtp: usize,
    max_positions: usize,
    theta: f64,
    /// factor, original length, beta_fast, mscale
    yarn: (f64, usize, f64, f64),
    bos: u32,
    eos: u32,
    fp8: bool,
}

/// Source: the models' published config.json.
const V3: Shape = Shape {
    model_type: "deepseek_v3",
    vocab: 129_280,
    hidden: 7168,
    layers: 61,
    heads: 128,
    q_lora: Some(1536),
    kv_lora: 512,
    nope: 128,
    rope: 64,
    value: 128,
    inner: 18_432,
    moe_inner: 2048,
    experts: 256,
    shared: 1,
    top_k: 8,
    groups: 8,
    top_groups: 4,
    scale: 2.5,
    dense: 3,
    mtp: 1,
    max_positions: 163_840,
    theta: 1e4,
    yarn: (40.0, 4096, 32.0, 1.0),
    bos: 0,
    eos: 1,
    fp8: false,
};

const SMALL: Shape = Shape {
    kv_lora: 48,
    nope: 32,
    rope: 16,
    value: 32,
    heads: 4,
    experts: 16,
    top_k: 4,
    groups: 4,
    top_groups: 2,
    dense: 1,
    ..V3
};

const TINY_V3: Shape = Shape {
    hidden: 64,
    layers: 2,
    q_lora: Some(48),
    inner: 128,
    moe_inner: 32,
    mtp: 0,
    max_positions: 4096,
    yarn: (4.0, 1024, 32.0, 1.0),
    ..SMALL
};

const DEMO: Shape = Shape {
    vocab: 1024,
    hidden: 96,
    layers: 2,
    q_lora: Some(64),
    inner: 192,
    moe_inner: 48,
    max_positions: 8192,
    yarn: (4.0, 2048, 32.0, 1.0),
    ..SMALL
};

const KIMI_K2: Shape = Shape {
    model_type: "kimi_k2",
    vocab: 163_840,
    heads: 64,
    experts: 384,
    groups: 1,
    top_groups: 1,
    scale: 2.827,
    dense: 1,
    mtp: 0,
    max_positions: 131_072,
    theta: 5e4,
    yarn: (32.0, 4096, 1.0, 1.0),
    bos: 163_584,
    eos: 163_585,
    ..V3
};

const V2: Shape = Shape {
    model_type: "deepseek_v2",
    vocab: 102_400,
    hidden: 5120,
    layers: 60,
    inner: 12_288,
    moe_inner: 1536,
    experts: 160,
    shared: 2,
    top_k: 6,
    top_groups: 3,
    scale: 16.0,
    dense: 1,
    mtp: 0,
    bos: 100_000,
    eos: 100_001,
    ..V3
};

const V2_LITE: Shape = Shape {
    model_type: "deepseek_v2",
    vocab: 102_400,
    hidden: 2048,
    layers: 27,
    heads: 16,
    q_lora: None,
    inner: 10_944,
    moe_inner: 1408,
    experts: 64,
    shared: 2,
    top_k: 6,
    groups: 1,
    top_groups: 1,
    scale: 1.0,
    dense: 1,
    mtp: 0,
    yarn: (40.0, 4096, 32.0, 0.707),
    bos: 100_000,
    eos: 100_001,
    ..V3
};

impl Shape {
    pub fn of(preset: Preset, layers: Option<usize>, vocab: Option<usize>, fp8: bool) -> Result<Self> {
        let mut shape = Self { fp8, ..Self::preset(preset) };
        if let Some(layers) = layers {
            if !(1..=1000).contains(&layers) {
                bail!("--layers is {layers}, expected 1 to 1000");
            }
            shape.layers = layers;
        }
        if let Some(vocab) = vocab {
            if !(8..=1 << 20).contains(&vocab) {
                bail!("--vocab is {vocab}, expected 8 to 1048576");
            }
            shape.vocab = vocab;
            if shape.eos as usize >= vocab {
                (shape.bos, shape.eos) = (0, 1);
            }
        }
        Ok(shape)
    }

    fn is_v2(&self) -> bool {
        self.model_type == "deepseek_v2"
    }

    fn preset(preset: Preset) -> Self {
        match preset {
            Preset::TinyV3 => TINY_V3,
            Preset::V2Lite => V2_LITE,
            Preset::V2 => V2,
            Preset::V3 => V3,
            Preset::KimiK2 => KIMI_K2,
            Preset::Demo => DEMO,
        }
    }

    /// config.json in the hub's spelling.
    pub fn config(&self) -> Value {
        let (factor, original, beta_fast, mscale) = self.yarn;
        let method = match (self.is_v2(), self.groups) {
            (false, _) => "noaux_tc",
            (true, 1) => "greedy",
            (true, _) => "group_limited_greedy",
        };
        let mut config = json!({
            "architectures": [if self.is_v2() { "DeepseekV2ForCausalLM" } else { "DeepseekV3ForCausalLM" }],
            "model_type": self.model_type,
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "moe_intermediate_size": self.moe_inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "n_shared_experts": self.shared,
            "n_routed_experts": self.experts,
            "routed_scaling_factor": self.scale,
            "kv_lora_rank": self.kv_lora,
            "q_lora_rank": self.q_lora,
            "qk_rope_head_dim": self.rope,
            "v_head_dim": self.value,
            "qk_nope_head_dim": self.nope,
            "topk_method": method,
            "n_group": self.groups,
            "topk_group": self.top_groups,
            "num_experts_per_tok": self.top_k,
            "moe_layer_freq": 1,
            "first_k_dense_replace": self.dense,
            "norm_topk_prob": !self.is_v2(),
            "scoring_func": if self.is_v2() { "softmax" } else { "sigmoid" },
            "num_nextn_predict_layers": self.mtp,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": 1e-6,
            "rope_theta": self.theta,
            "rope_scaling": {
                "type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original,
                "beta_fast": beta_fast,
                "beta_slow": 1,
                "mscale": mscale,
                "mscale_all_dim": mscale,
            },
            "attention_bias": false,
            "tie_word_embeddings": false,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
            "torch_dtype": "bfloat16",
        });
        if self.fp8 {
            config["quantization_config"] =
                json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]});
        }
        config
    }

    pub fn generation_config(&self) -> Value {
        json!({"bos_token_id": self.bos, "eos_token_id": self.eos})
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut list = List(Vec::new());
        list.add("model.embed_tokens.weight", &[self.vocab, self.hidden], Fill::Embedding);
        for layer in 0..self.layers {
            self.layer(&mut list, layer, layer >= self.dense);
        }
        list.add("model.norm.weight", &[self.hidden], Fill::Norm);
        list.add("lm_head.weight", &[self.vocab, self.hidden], Fill::Head);
        for module in 0..self.mtp {
            self.mtp_layer(&mut list, self.layers + module);
        }
        if self.fp8 { list.0.into_iter().flat_map(in_fp8).collect() } else { list.0 }
    }

    fn layer(&self, list: &mut List, index: usize, is_moe: bool) {
        let name = format!("model.layers.{index}");
        let attention = format!("{name}.self_attn");
        let q_width = self.heads * (self.nope + self.rope);
        list.add(&format!("{name}.input_layernorm.weight"), &[self.hidden], Fill::Norm);
        if let Some(rank) = self.q_lora {
            list.add(&format!("{attention}.q_a_proj.weight"), &[rank, self.hidden], Fill::Weight);
            list.add(&format!("{attention}.q_a_layernorm.weight"), &[rank], Fill::Norm);
            list.add(&format!("{attention}.q_b_proj.weight"), &[q_width, rank], Fill::Weight);
        } else {
            list.add(&format!("{attention}.q_proj.weight"), &[q_width, self.hidden], Fill::Weight);
        }
        list.add(
            &format!("{attention}.kv_a_proj_with_mqa.weight"),
            &[self.kv_lora + self.rope, self.hidden],
            Fill::Weight,
        );
        list.add(&format!("{attention}.kv_a_layernorm.weight"), &[self.kv_lora], Fill::Norm);
        list.add(
            &format!("{attention}.kv_b_proj.weight"),
            &[self.heads * (self.nope + self.value), self.kv_lora],
            Fill::Weight,
        );
        list.add(&format!("{attention}.o_proj.weight"), &[self.hidden, self.heads * self.value], Fill::Weight);
        list.add(&format!("{name}.post_attention_layernorm.weight"), &[self.hidden], Fill::Norm);
        let mlp = format!("{name}.mlp");
        if !is_moe {
            self.mlp(list, &mlp, self.inner);
            return;
        }
        list.add(&format!("{mlp}.gate.weight"), &[self.experts, self.hidden], Fill::Weight);
        if !self.is_v2() {
            list.add(&format!("{mlp}.gate.e_score_correction_bias"), &[self.experts], Fill::Bias);
        }
        for expert in 0..self.experts {
            self.mlp(list, &format!("{mlp}.experts.{expert}"), self.moe_inner);
        }
        self.mlp(list, &format!("{mlp}.shared_experts"), self.shared * self.moe_inner);
    }

    fn mlp(&self, list: &mut List, name: &str, inner: usize) {
        list.add(&format!("{name}.gate_proj.weight"), &[inner, self.hidden], Fill::Weight);
        list.add(&format!("{name}.up_proj.weight"), &[inner, self.hidden], Fill::Weight);
        list.add(&format!("{name}.down_proj.weight"), &[self.hidden, inner], Fill::Weight);
    }

    fn mtp_layer(&self, list: &mut List, index: usize) {
        let name = format!("model.layers.{index}");
        list.add(&format!("{name}.embed_tokens.weight"), &[self.vocab, self.hidden], Fill::Embedding);
        list.add(&format!("{name}.enorm.weight"), &[self.hidden], Fill::Norm);
        list.add(&format!("{name}.hnorm.weight"), &[self.hidden], Fill::Norm);
        list.add(&format!("{name}.eh_proj.weight"), &[self.hidden, 2 * self.hidden], Fill::Weight);
        self.layer(list, index, true);
        list.add(&format!("{name}.shared_head.norm.weight"), &[self.hidden], Fill::Norm);
        list.add(&format!("{name}.shared_head.head.weight"), &[self.vocab, self.hidden], Fill::Head);
    }
}

/// Matrices of layers as DeepSeek publishes them: e4m3 with scales, but not the router's.
fn in_fp8(tensor: TensorShape) -> Vec<TensorShape> {
    let is_router = tensor.name.ends_with("mlp.gate.weight") || tensor.name.ends_with("eh_proj.weight");
    let &[rows, columns] = &tensor.shape[..] else { return vec![tensor] };
    if tensor.fill != Fill::Weight || is_router {
        return vec![tensor];
    }
    let scale = TensorShape {
        name: format!("{}_scale_inv", tensor.name),
        shape: vec![rows.div_ceil(FP8_BLOCK), columns.div_ceil(FP8_BLOCK)],
        fill: Fill::Scale(1.0 / ((columns as f32).sqrt() * FP8_RMS)),
    };
    vec![TensorShape { fill: Fill::Fp8, ..tensor }, scale]
}

struct List(Vec<TensorShape>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize], fill: Fill) {
        self.0.push(TensorShape { name: name.to_owned(), shape: shape.to_vec(), fill });
    }
}
