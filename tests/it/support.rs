//! Loading fixtures and running models without a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Tensor};
use moesaic_model::{Architecture, Checkpoint, Device, LoadOptions, Progress, Quantization};
use moesaic_worker::{BatchSequence, ModelRunner, Numerics, RunnerConfig};
use serde_json::Value;

pub const BLOCK_SIZE: usize = 16;
pub const NUM_BLOCKS: usize = 64;

pub fn golden_dir(name: &str) -> PathBuf {
    // A built test may run on another machine, in a copy of the tree.
    let tests = std::env::var_os("MOESAIC_TESTS").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&tests).join("golden").join(name)
}

pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A checkpoint folder for a fixture, with the spelling of config.json that is asked for.
pub fn checkpoint(name: &str, config_file: &str) -> (tempfile::TempDir, Checkpoint) {
    let source = golden_dir(name);
    let golden = read_json(&source.join("golden.json"));
    let weights = golden["weights_file"].as_str().unwrap_or("model.safetensors");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(source.join(config_file), folder.path().join("config.json")).unwrap();
    std::fs::copy(source.join(weights), folder.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::folder(folder.path()).unwrap();
    (folder, checkpoint)
}

pub fn load(checkpoint: &Checkpoint, dtype: DType, numerics: Numerics) -> ModelRunner {
    load_with_blocks(checkpoint, dtype, numerics, NUM_BLOCKS)
}

pub fn load_with_blocks(checkpoint: &Checkpoint, dtype: DType, numerics: Numerics, num_blocks: usize) -> ModelRunner {
    load_on(&Device::Cpu, checkpoint, dtype, numerics, num_blocks)
}

pub fn load_on(
    device: &Device,
    checkpoint: &Checkpoint,
    dtype: DType,
    numerics: Numerics,
    num_blocks: usize,
) -> ModelRunner {
    load_with_cache(device, checkpoint, (dtype, dtype), numerics, num_blocks)
}

/// `dtypes`: of weights and cache.
pub fn load_with_cache(
    device: &Device,
    checkpoint: &Checkpoint,
    (dtype, cache_dtype): (DType, DType),
    numerics: Numerics,
    num_blocks: usize,
) -> ModelRunner {
    let device = device.clone();
    let options = LoadOptions { device, dtype, quantization: Quantization::None, max_model_len: 256 };
    load_with_options(checkpoint, options, cache_dtype, numerics, num_blocks)
}

/// In bf16, for sequences as long as its config.json says.
pub fn load_for_its_positions(checkpoint: &Checkpoint, num_blocks: usize) -> ModelRunner {
    let config = checkpoint.read_json("config.json").unwrap().unwrap();
    let max_model_len = Architecture::from_config(&config).unwrap().max_position_embeddings();
    let options =
        LoadOptions { device: Device::Cpu, dtype: DType::BF16, quantization: Quantization::None, max_model_len };
    load_with_options(checkpoint, options, DType::BF16, Numerics::Strict, num_blocks)
}

/// In bf16.
pub fn load_quantised(checkpoint: &Checkpoint, quantization: Quantization) -> ModelRunner {
    let options = LoadOptions { device: Device::Cpu, dtype: DType::BF16, quantization, max_model_len: 256 };
    load_with_options(checkpoint, options, DType::BF16, Numerics::Strict, NUM_BLOCKS)
}

fn load_with_options(
    checkpoint: &Checkpoint,
    options: LoadOptions,
    cache_dtype: DType,
    numerics: Numerics,
    num_blocks: usize,
) -> ModelRunner {
    let config = checkpoint.read_json("config.json").unwrap().unwrap();
    let architecture = Architecture::from_config(&config).unwrap();
    let runner = RunnerConfig {
        device: options.device.clone(),
        num_blocks,
        block_size: BLOCK_SIZE,
        cache_dtype,
        numerics,
        max_model_len: options.max_model_len,
        vocab_size: architecture.vocab_size(),
    };
    let model = architecture.load(checkpoint, &config, options, Arc::new(Progress::default())).unwrap();
    ModelRunner::new(model, runner).unwrap()
}

/// Logits of all rows of one sequence, computed in chunks of the given sizes (the last repeats).
pub fn all_logits(runner: &ModelRunner, tokens: &[u32], chunks: &[usize], first_block: u32) -> Vec<Vec<f32>> {
    let num_blocks = tokens.len().div_ceil(BLOCK_SIZE) as u32;
    // Out of order, as a pool that has lived for a while would give them.
    let block_table: Vec<u32> = (first_block..first_block + num_blocks).rev().collect();
    let (mut logits, mut start, mut chunks) = (Vec::new(), 0, chunks.iter().cycle());
    while start < tokens.len() {
        let end = (start + chunks.next().unwrap()).min(tokens.len());
        let sequence = BatchSequence {
            token_ids: &tokens[start..end],
            chosen_row: None,
            start,
            block_table: &block_table,
            num_logit_rows: end - start,
        };
        let (hidden, _) = runner.forward(&[sequence]).unwrap();
        runner.for_each_logits(&hidden, |_, rows| logits.extend(rows)).unwrap();
        start = end;
    }
    logits
}

/// The emulated GPU, or, with MOESAIC_TEST_GPU set, the real one.
pub fn gpu() -> Device {
    if std::env::var_os("MOESAIC_TEST_GPU").is_none() {
        moesaic_cuda_emulator::install();
    }
    moesaic_worker::open_gpu(0).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}
