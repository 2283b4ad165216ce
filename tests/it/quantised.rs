//! Weights in fewer bits: how far the predictions move, and that the server serves them.

use candle_core::DType;
use moesaic_model::{Checkpoint, Quantization};
use moesaic_worker::Numerics;

use crate::server::{Server, chat, run};
use crate::support::{all_logits, checkpoint, golden_dir, ids, load, load_quantised, read_json};

/// KL(p ‖ q) of the distributions that two rows of logits give, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|value| f64::from(value - largest).exp()).sum();
        row.iter().map(|value| f64::from(value - largest) - sum.ln()).collect()
    };
    log_softmax(p).iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Mean divergence from bf16 over all positions of the prompts, and the share of equal best tokens.
fn compare(checkpoint: &Checkpoint, quantization: Quantization, prompts: &[Vec<u32>]) -> (f64, f64) {
    let exact = load(checkpoint, DType::BF16, Numerics::Strict);
    let quantised = load_quantised(checkpoint, quantization);
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let (mut sum, mut equal, mut count) = (0.0, 0, 0);
    for prompt in prompts {
        let logits = [&exact, &quantised].map(|runner| all_logits(runner, prompt, &[prompt.len()], 0));
        for (p, q) in logits[0].iter().zip(&logits[1]) {
            sum += divergence(p, q);
            equal += usize::from(best(p) == best(q));
            count += 1;
        }
    }
    (sum / f64::from(count), equal as f64 / f64::from(count))
}

/// Figures of both are printed; RESULTS.md has them.
#[test]
fn divergence_is_small() {
    let folder = golden_dir("demo_model");
    let demo = Checkpoint::folder(&folder.join("../../../crates/demo-model/data")).unwrap();
    let cases = read_json(&folder.join("logits.json"));
    let prompts: Vec<_> = cases["cases"].as_array().unwrap().iter().map(|case| ids(&case["ids"])).collect();
    for (quantization, most) in [(Quantization::Int8, 0.004), (Quantization::Int4, 0.1)] {
        let (mean, equal) = compare(&demo, quantization, &prompts);
        println!("demo model, {quantization:?}: mean KL {mean:.5} nats, same best token {:.1} %", 100.0 * equal);
        assert!(mean <= most, "{quantization:?}: {mean}");
        assert!(mean > 0.0, "{quantization:?} changes nothing");
    }
    for name in ["deepseek_v2_lite", "deepseek_v3_yarn", "deepseek_v3_fp8"] {
        let (_folder, checkpoint) = checkpoint(name, "config.json");
        let golden = read_json(&golden_dir(name).join("golden.json"));
        let prompts: Vec<_> = golden["cases"].as_array().unwrap().iter().map(|case| ids(&case["prompt"])).collect();
        for (quantization, most) in [(Quantization::Int8, 0.01), (Quantization::Int4, 0.2)] {
            let (mean, equal) = compare(&checkpoint, quantization, &prompts);
            println!("{name}, {quantization:?}: mean KL {mean:.5} nats, same best token {:.1} %", 100.0 * equal);
            assert!(mean <= most, "{name} {quantization:?}: {mean}");
        }
    }
}

/// Greedy answers in 8 bits are those of 16; another fingerprint says that bits may differ.
#[tokio::test]
async fn served_in_8_bits() {
    let (plain, quantised) = (Server::start(&[]), Server::start(&["--quantization", "int8"]));
    for question in ["Hello!", "Who are you?", "What is 2 + 3?"] {
        let mut answers = Vec::new();
        for server in [&plain, &quantised] {
            answers.push(server.ask("/v1/chat/completions", chat(question)).await);
        }
        assert_eq!(answers[0]["choices"], answers[1]["choices"], "{question}");
        assert_ne!(answers[0]["system_fingerprint"], answers[1]["system_fingerprint"]);
    }
}

#[test]
fn what_cannot_be_quantised_refuses_to_start() {
    let start = |args: &[&str]| {
        let (code, _, error) = run(&[&["serve", "--port", "0"], args].concat());
        assert!(code.is_some_and(|code| code != 0), "{error}");
        error
    };
    let error = start(&["--quantization", "int8", "--dtype", "f32"]);
    assert!(error.contains("quantization is of weights in bf16, but dtype is f32"), "{error}");
    assert!(start(&["--quantization", "int3"]).contains("possible values: none, int8, int4"));
}
