//! DeepSeek-V2, V2-Lite, V3, R1 and Kimi-K2: latent attention and mixture of experts.
//!
//! Sources: the DeepSeek-V2 and V3 reports (arXiv 2405.04434, 2412.19437) and the models' own
//! published code.

use moesaic_kernels::Tensor;
use moesaic_kernels::ops::{self, GroupScore, RopeLayout, RouterConfig, Scoring};

use super::CausalLm;
use crate::fields::Fields;
use crate::layers::{Linear, Mla, MlaConfig, Mlp, Moe, MoeConfig, RmsNorm, RopeScaling, Rotary};
use crate::{KvCache, KvCacheGroup, KvCacheSpec, ModelError, ModelInput, Weights};

/// The parts of config.json that the computation depends on.
#[derive(Debug, Clone)]
pub struct DeepSeekConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest context the model was made for.
    pub max_position_embeddings: usize,
    num_layers: usize,
    dense_inner: usize,
    num_dense_layers: usize,
    moe_layer_freq: usize,
    moe: Option<MoeConfig>,
    mla: MlaConfig,
    rms_norm_eps: f64,
    rope_theta: f64,
    rope_scaling: Option<RopeScaling>,
    rope_layout: RopeLayout,
    tied: bool,
}

impl DeepSeekConfig {
    /// Reads and checks config.json.
    ///
    /// # Errors
    /// Names the key that is missing, out of range or asks for something unsupported.
    pub fn from_json(config: &serde_json::Value) -> Result<Self, ModelError> {
        let fields = Fields::of(config, "the file")?;
        require(&fields, "attention_bias", fields.optional_bool("attention_bias")?, &false)?;
        require(&fields, "hidden_act", fields.optional_text("hidden_act")?, &"silu")?;
        let (rope_theta, rope_scaling) = RopeScaling::from_config(&fields)?;
        let interleaved = fields.optional_bool("rope_interleave")?.unwrap_or(true);
        let first_k_dense = fields.count("first_k_dense_replace")?.unwrap_or(0);
        Ok(Self {
            vocab_size: fields.dimension("vocab_size")?,
            max_position_embeddings: fields.dimension("max_position_embeddings")?,
            num_layers: fields.dimension("num_hidden_layers")?,
            dense_inner: fields.dimension("intermediate_size")?,
            num_dense_layers: first_k_dense,
            moe_layer_freq: fields.optional_dimension("moe_layer_freq")?.unwrap_or(1),
            moe: moe_config(&fields)?,
            mla: mla_config(&fields, rope_scaling.as_ref())?,
            rms_norm_eps: fields.number("rms_norm_eps")?,
            rope_theta,
            rope_scaling,
            rope_layout: if interleaved { RopeLayout::Interleaved } else { RopeLayout::Half },
            tied: fields.optional_bool("tie_word_embeddings")?.unwrap_or(false),
        })
    }

    /// What the model caches per token: latent and shared key of each layer.
    pub fn kv_cache_spec(&self) -> KvCacheSpec {
        let MlaConfig { kv_lora_rank, rope, .. } = self.mla;
        let (width, fp8_bytes) = (kv_lora_rank + rope, Some(ops::fp8_entry_bytes(kv_lora_rank, rope)));
        KvCacheSpec { groups: vec![KvCacheGroup { num_layers: self.num_layers, width, fp8_bytes, window: None }] }
    }

    fn is_moe_layer(&self, index: usize) -> bool {
        index >= self.num_dense_layers && index.is_multiple_of(self.moe_layer_freq)
    }
}

fn require<T: PartialEq + std::fmt::Display>(
    fields: &Fields,
    key: &str,
    value: Option<T>,
    expected: &T,
) -> Result<(), ModelError> {
    match value {
        Some(value) if value != *expected => Err(ModelError::Unsupported(format!(
            "config.json: `{key}` is {}, only {expected} is supported",
            fields.get(key).unwrap_or(&serde_json::Value::Null)
        ))),
        _ => Ok(()),
    }
}

fn mla_config(fields: &Fields, scaling: Option<&RopeScaling>) -> Result<MlaConfig, ModelError> {
    let (nope, rope) = (fields.dimension("qk_nope_head_dim")?, fields.dimension("qk_rope_head_dim")?);
    if rope % 2 != 0 {
        return Err(ModelError::config(format!("`qk_rope_head_dim` is {rope}, expected an even number")));
    }
    let multiplier = scaling.map_or(1.0, RopeScaling::softmax_multiplier);
    Ok(MlaConfig {
        hidden: fields.dimension("hidden_size")?,
        num_heads: fields.dimension("num_attention_heads")?,
        q_lora_rank: fields.optional_dimension("q_lora_rank")?,
        kv_lora_rank: fields.dimension("kv_lora_rank")?,
        nope,
        rope,
        value: fields.dimension("v_head_dim")?,
        softmax_scale: (multiplier / ((nope + rope) as f64).sqrt()) as f32,
    })
}

fn moe_config(fields: &Fields) -> Result<Option<MoeConfig>, ModelError> {
    let Some(num_experts) = fields.optional_dimension("n_routed_experts")? else {
        return Ok(None);
    };
    let is_v2 = fields.optional_text("model_type")? == Some("deepseek_v2");
    let method = fields.optional_text("topk_method")?.unwrap_or(if is_v2 { "greedy" } else { "noaux_tc" });
    let scoring = fields.optional_text("scoring_func")?.unwrap_or(if is_v2 { "softmax" } else { "sigmoid" });
    let (group_score, grouped) = match method {
        "greedy" => (GroupScore::Best, false),
        "group_limited_greedy" => (GroupScore::Best, true),
        "noaux_tc" => (GroupScore::TopTwo, true),
        other => {
            return Err(ModelError::Unsupported(format!("config.json: `topk_method` {other:?} is not supported")));
        }
    };
    let scoring = match scoring {
        "softmax" => Scoring::Softmax,
        "sigmoid" => Scoring::Sigmoid,
        other => {
            return Err(ModelError::Unsupported(format!("config.json: `scoring_func` {other:?} is not supported")));
        }
    };
    let (num_groups, top_groups) = if grouped {
        (fields.optional_dimension("n_group")?.unwrap_or(1), fields.optional_dimension("topk_group")?.unwrap_or(1))
    } else {
        (1, 1)
    };
    let top_k = fields.dimension("num_experts_per_tok")?;
    let group_size = num_experts / num_groups.min(num_experts);
    let smallest_group = if group_score == GroupScore::TopTwo && num_groups > 1 { 2 } else { 1 };
    if num_experts % num_groups != 0
        || top_groups > num_groups
        || top_k > top_groups * group_size
        || group_size < smallest_group
    {
        return Err(ModelError::config(format!(
            "{num_experts} experts in {num_groups} groups cannot give {top_k} per token from {top_groups} groups"
        )));
    }
    Ok(Some(MoeConfig {
        num_experts,
        inner: fields.dimension("moe_intermediate_size")?,
        num_shared: fields.count("n_shared_experts")?.unwrap_or(0),
        router: RouterConfig {
            top_k,
            num_groups,
            top_groups,
            scoring,
            group_score,
            normalise: fields.optional_bool("norm_topk_prob")?.unwrap_or(!is_v2),
            scale: fields.optional_number("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        },
        has_bias: method == "noaux_tc",
    }))
}

#[derive(Debug)]
enum FeedForward {
    Dense(Box<Mlp>),
    Experts(Box<Moe>),
}

#[derive(Debug)]
struct Layer {
    input_norm: RmsNorm,
    attention: Mla,
    post_attention_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Layer {
    fn load(weights: &Weights, index: usize, config: &DeepSeekConfig) -> Result<Self, ModelError> {
        let name = format!("model.layers.{index}");
        let hidden = config.mla.hidden;
        let norm = |part: &str| RmsNorm::load(weights, &format!("{name}.{part}"), hidden, config.rms_norm_eps);
        let feed_forward = match &config.moe {
            Some(moe) if config.is_moe_layer(index) => {
                FeedForward::Experts(Box::new(Moe::load(weights, &format!("{name}.mlp"), hidden, moe)?))
            }
            _ => FeedForward::Dense(Box::new(Mlp::load(weights, &format!("{name}.mlp"), hidden, config.dense_inner)?)),
        };
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            attention: Mla::load(weights, &format!("{name}.self_attn"), &config.mla)?,
            post_attention_norm: norm("post_attention_layernorm")?,
            feed_forward,
        })
    }

    /// Takes the residual stream and what is still to be added to it, and gives both.
    fn forward(
        &self,
        x: Tensor,
        delta: Option<&Tensor>,
        rotary: &Rotary,
        (input, cache): (&ModelInput, &Tensor),
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (x, normed) = self.input_norm.add_forward(x, delta)?;
        let attended = self.attention.forward(&normed, rotary, &input.attention, cache)?;
        let (x, normed) = self.post_attention_norm.add_forward(x, Some(&attended))?;
        let fed = match &self.feed_forward {
            FeedForward::Dense(mlp) => mlp.forward(&normed)?,
            FeedForward::Experts(moe) => moe.forward(&normed)?,
        };
        Ok((x, fed))
    }
}

/// The whole model.
#[derive(Debug)]
pub struct DeepSeek {
    embedding: Tensor, // (vocabulary, hidden)
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    rotary: Rotary,
    config: DeepSeekConfig,
}

impl DeepSeek {
    /// Reads all layers; an extra layer of a multi-token-prediction module is left alone.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the config says.
    pub fn load(config: DeepSeekConfig, weights: &Weights, max_model_len: usize) -> Result<Self, ModelError> {
        let hidden = config.mla.hidden;
        let embedding = weights.tensor("model.embed_tokens.weight", &[config.vocab_size, hidden])?;
        let head = if config.tied && !weights.packs() {
            Linear::new(embedding.as_weight()?)
        } else {
            // Packed, it is a copy of its own, which may be quantised.
            let name = if config.tied { "model.embed_tokens" } else { "lm_head" };
            Linear::load(weights, name, config.vocab_size, hidden)?
        };
        let layers =
            (0..config.num_layers).map(|index| Layer::load(weights, index, &config)).collect::<Result<_, _>>()?;
        let rotary = Rotary::new(
            config.rope_theta,
            config.rope_scaling.as_ref(),
            config.mla.rope,
            max_model_len,
            config.rope_layout,
            weights.device(),
        )?;
        let norm = RmsNorm::load(weights, "model.norm", hidden, config.rms_norm_eps)?;
        Ok(Self { embedding, layers, norm, head, rotary, config })
    }
}

impl CausalLm for DeepSeek {
    fn kv_cache_spec(&self) -> KvCacheSpec {
        self.config.kv_cache_spec()
    }

    fn forward(&self, input: &ModelInput, cache: &KvCache) -> Result<Tensor, ModelError> {
        let mut x = ops::embed(&self.embedding, &input.token_ids)?; // (rows, hidden)
        let mut delta = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let (sum, fed) = layer.forward(x, delta.as_ref(), &self.rotary, (input, cache.layer(index)))?;
            (x, delta) = (sum, Some(fed));
        }
        let delta = delta.ok_or_else(|| ModelError::config("`num_hidden_layers` is 0"))?;
        Ok(self.norm.last_forward(&x, &delta, &input.logit_rows)?)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.head.forward_f32(hidden)?)
    }
}
