//! candle-transformers' own DeepSeek-V2 (expanded keys and values, another author) as a second
//! oracle, on prompts longer than the fixtures': across YaRN's original context and many blocks.
//! It knows the branches of V2-Lite only.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::deepseek2::{DeepSeekV2, DeepSeekV2Config};
use moesaic_worker::Numerics;

use crate::support::{all_logits, checkpoint, load};

#[test]
fn long_prompts_agree_with_candle() {
    let (folder, checkpoint) = checkpoint("deepseek_v2_lite", "config.json");
    let config = std::fs::read(folder.path().join("config.json")).unwrap();
    let config: DeepSeekV2Config = serde_json::from_slice(&config).unwrap();
    let weights = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
    let mut candle = DeepSeekV2::new(&config, weights).unwrap();
    for numerics in [Numerics::Strict, Numerics::Fast { naive_min_tokens: 20 }] {
        let ours = load(&checkpoint, DType::F32, numerics);
        for length in [50_u32, 130, 250] {
            let tokens: Vec<u32> = (0..length).map(|i| (i * i + 31 * i + length) % 256).collect();
            candle.clear_kv_cache();
            let input = Tensor::from_slice(&tokens, (1, tokens.len()), &Device::Cpu).unwrap();
            let theirs: Vec<f32> = candle.forward(&input, 0).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let logits = all_logits(&ours, &tokens, &[64, 1, 30], 0);
            for (a, b) in logits.last().unwrap().iter().zip(&theirs) {
                assert!((a - b).abs() < 2e-4, "{length} tokens, {numerics:?}: {a}, candle says {b}");
            }
        }
    }
}
