//! Branches that no fixture has: derived from one that has, so that the result is known.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
use half::f16;
use moesaic_model::Checkpoint;
use moesaic_worker::Numerics;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde_json::{Value, json};

use crate::support::{all_logits, golden_dir, load, read_json};

/// A tensor on its way from one checkpoint to another.
#[derive(Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Stored {
    fn f32s(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn from_f32s(shape: &[usize], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), data }
    }
}

type Tensors = BTreeMap<String, Stored>;

fn read(name: &str) -> (Value, Tensors) {
    let bytes = std::fs::read(golden_dir(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored =
        |view: TensorView| Stored { dtype: view.dtype(), shape: view.shape().to_vec(), data: view.data().to_vec() };
    let tensors = file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect();
    (read_json(&golden_dir(name).join("config.json")), tensors)
}

fn write(tensors: &Tensors, path: &Path) {
    let views = tensors.iter().map(|(name, t)| (name, TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

fn logits(config: &Value, tensors: &Tensors) -> Vec<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    write(tensors, &folder.path().join("model.safetensors"));
    logits_of(config, folder.path())
}

fn logits_of(config: &Value, folder: &Path) -> Vec<Vec<f32>> {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let runner = load(&Checkpoint::folder(folder).unwrap(), DType::F32, Numerics::Strict);
    let tokens: Vec<u32> = (0..40).map(|i| (i * i * 5 + 17) % 256).collect();
    all_logits(&runner, &tokens, &[40], 0)
}

#[test]
fn shards_are_one_checkpoint() {
    let (config, tensors) = read("deepseek_v3_yarn");
    let whole = logits(&config, &tensors);
    let folder = tempfile::tempdir().unwrap();
    let mut weight_map = json!({});
    let mut shards = vec![Tensors::new(); 3];
    for (index, (name, tensor)) in tensors.into_iter().enumerate() {
        weight_map[&name] = format!("part-{}.safetensors", index % 3).into();
        shards[index % 3].insert(name, tensor);
    }
    for (index, shard) in shards.iter().enumerate() {
        write(shard, &folder.path().join(format!("part-{index}.safetensors")));
    }
    let index = json!({"weight_map": weight_map});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(logits_of(&config, folder.path()), whole);
    std::fs::remove_file(folder.path().join("part-1.safetensors")).unwrap();
    let (code, _, error) = crate::server::run(&["serve", "--port", "0", "--model", folder.path().to_str().unwrap()]);
    assert!(code == Some(1) && error.contains("part-1.safetensors"), "{error}");
}

#[test]
fn f16_weights_are_widened_exactly() {
    let (config, tensors) = read("deepseek_v2_group");
    let rounded = |value: &f32| f16::from_f32(*value);
    let as_f16 = |t: &Stored| Stored {
        dtype: Dtype::F16,
        data: t.f32s().iter().flat_map(|value| rounded(value).to_le_bytes()).collect(),
        ..t.clone()
    };
    let as_f32 =
        |t: &Stored| Stored::from_f32s(&t.shape, &t.f32s().iter().map(|v| rounded(v).to_f32()).collect::<Vec<_>>());
    let convert = |to: &dyn Fn(&Stored) -> Stored| tensors.iter().map(|(name, t)| (name.clone(), to(t))).collect();
    assert_eq!(logits(&config, &convert(&as_f16)), logits(&config, &convert(&as_f32)));
}

#[test]
fn tied_embeddings_serve_as_the_head() {
    let (mut config, mut tensors) = read("deepseek_v3_yarn");
    let embedding = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".to_owned(), embedding);
    let untied = logits(&config, &tensors);
    config["tie_word_embeddings"] = json!(true);
    tensors.remove("lm_head.weight");
    assert_eq!(logits(&config, &tensors), untied);
}

/// Half layout with the rotary rows reordered is the same model as interleaved pairs.
#[test]
fn rotary_layouts_are_permutations() {
    let (mut config, tensors) = read("deepseek_v3_yarn");
    let interleaved = logits(&config, &tensors);
    let (heads, nope, rope, latent) = (4, 24, 16, 48);
    // Row i of the half layout is row 2i (first half) or 2(i - rope/2) + 1 of the interleaved one.
    let source = |i: usize| if i < rope / 2 { 2 * i } else { 2 * (i - rope / 2) + 1 };
    let reorder = |t: &Stored, starts: &[usize]| {
        let width = t.shape[1];
        let old = t.f32s();
        let mut new = old.clone();
        for start in starts {
            for i in 0..rope {
                let (to, from) = ((start + i) * width, (start + source(i)) * width);
                new[to..to + width].copy_from_slice(&old[from..from + width]);
            }
        }
        Stored::from_f32s(&t.shape, &new)
    };
    let q_starts: Vec<usize> = (0..heads).map(|head| head * (nope + rope) + nope).collect();
    let permuted = tensors.iter().map(|(name, t)| {
        let starts = if name.ends_with("q_b_proj.weight") {
            &q_starts[..]
        } else if name.ends_with("kv_a_proj_with_mqa.weight") {
            &[latent][..]
        } else {
            &[][..]
        };
        (name.clone(), if starts.is_empty() { t.clone() } else { reorder(t, starts) })
    });
    config["rope_interleave"] = json!(false);
    let half = logits(&config, &permuted.collect());
    for (a, b) in half.iter().flatten().zip(interleaved.iter().flatten()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

/// Scales stored as bare exponents.
#[test]
fn e8m0_scales_are_powers_of_two() {
    let (config, tensors) = read("deepseek_v3_fp8");
    let exponent = |value: &f32| (value.log2().round() + 127.0) as u8;
    let convert = |bare: bool| -> Tensors {
        let tensor = |(name, t): (&String, &Stored)| {
            if !name.ends_with("_scale_inv") {
                return (name.clone(), t.clone());
            }
            let exponents: Vec<u8> = t.f32s().iter().map(exponent).collect();
            let stored = if bare {
                Stored { dtype: Dtype::F8_E8M0, shape: t.shape.clone(), data: exponents }
            } else {
                let values: Vec<f32> = exponents.iter().map(|e| (f32::from(*e) - 127.0).exp2()).collect();
                Stored::from_f32s(&t.shape, &values)
            };
            (name.clone(), stored)
        };
        tensors.iter().map(tensor).collect()
    };
    assert_eq!(logits(&config, &convert(true)), logits(&config, &convert(false)));
}

/// Kimi-K2's config: DeepSeek-V3 under another name, without groups.
#[test]
fn kimi_is_a_v3_without_groups() {
    let (mut config, tensors) = read("deepseek_v3_yarn");
    let grouped = logits(&config, &tensors);
    (config["n_group"], config["topk_group"]) = (json!(1), json!(1));
    let ungrouped = logits(&config, &tensors);
    config["model_type"] = json!("kimi_k2");
    assert_eq!(logits(&config, &tensors), ungrouped);
    assert_ne!(grouped, ungrouped);
}

/// The published configs are recognised, whatever else stands in them.
#[test]
fn published_configs_are_recognised() {
    let Some(shared) = crate::fixtures::shared() else { return };
    let read = |path: &str| read_json(&shared.join("data").join(path));
    for path in [
        "configs/deepseek-ai--DeepSeek-V3_config.json",
        "configs/deepseek-ai--DeepSeek-R1_config.json",
        "configs/moonshotai--Kimi-K2-Instruct_config.json",
        "configs-transcribed/DeepSeek-V2-Lite.json",
        "configs-transcribed/DeepSeek-V2.json",
    ] {
        moesaic_model::Architecture::from_config(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    for path in ["configs/deepseek-ai--DeepSeek-V4-Pro_config.json", "configs/Qwen--Qwen3-8B_config.json"] {
        let error = moesaic_model::Architecture::from_config(&read(path)).expect_err("is not served");
        assert!(error.to_string().contains("not supported"), "{path}: {error}");
    }
}
