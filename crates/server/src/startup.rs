//! From a checkpoint to a running engine.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use candle_core::DType;
use moesaic_chat::{Dialect, Markers, PromptRenderer, Tokenizer};
use moesaic_engine::{Engine, EngineConfig, Executor};

use moesaic_model::{Architecture, CausalLm, Checkpoint, Device, KvCacheSpec, LoadOptions, Progress, Quantization};
use moesaic_scheduler::SchedulerConfig;
use moesaic_worker::{GpuConfig, GpuWorker, ModelRunner, Numerics, RunnerConfig, Worker, WorkerConfig, open_gpu};
use serde_json::Value;

use crate::config::{Config, DeviceKind, Dtype, NumericsMode};
use crate::fingerprint::{Parts, fingerprint};
use crate::memory;
use crate::routes::unix_now;
use crate::state::{AppState, SamplingDefaults, Serving};

/// KV memory of the embedded model: it runs beside whatever else a first-time user has open.
const EMBEDDED_KV_BYTES: usize = 64 << 20;
/// Share of the free memory that `auto` gives to the KV cache.
const AUTO_KV_SHARE: f64 = 0.5;
/// KV memory where the system does not say what is free.
const FALLBACK_KV_BYTES: usize = 4 << 30;

/// A loaded model, ready to serve.
pub struct Loaded {
    /// Owns the engine thread.
    pub engine: Engine,
    /// What the routes need.
    pub serving: Serving,
    /// Tokens that the KV cache holds.
    pub kv_tokens: usize,
    /// Their type, for the start-up line.
    pub weights: String,
}

/// Loads the configured checkpoint and starts its engine, on `executor` instead of the weights where there is one.
///
/// # Errors
/// When the checkpoint is missing, broken or does not fit, with the file and tensor named.
pub fn load(state: &AppState, executor: Option<Box<dyn Executor>>) -> Result<Loaded> {
    let config = &state.config;
    let checkpoint = open(config)?;
    let model_config = checkpoint.read_json("config.json")?.context("config.json is missing")?;
    let architecture = Architecture::from_config(&model_config)?;
    let tokenizer = tokenizer(&checkpoint, architecture.vocab_size())?;
    let renderer = tokenizer.as_deref().map(|tokenizer| renderer(&checkpoint, tokenizer)).transpose()?.flatten();
    let generation_config = checkpoint.read_json("generation_config.json")?.unwrap_or_default();
    let (dtype, quantization) = number_types(config, &model_config)?;
    let max_positions = architecture.max_position_embeddings();
    let wanted_len = config.max_model_len.unwrap_or(max_positions);
    if wanted_len > max_positions {
        bail!("max_model_len is {wanted_len}, but the model was made for at most {max_positions} tokens");
    }
    if wanted_len < 2 {
        bail!("config.json: max_position_embeddings is {max_positions}: no room for a prompt and an answer");
    }
    // Quantised weights are widened to the compute type; f32 takes twice what bf16 files hold.
    let widens = dtype == DType::F32 || !model_config["quantization_config"].is_null();
    let widened_bytes = checkpoint.weight_file_bytes()? * if widens { 2 } else { 1 };
    let weight_bytes = (widened_bytes as f64 * quantization.bits_per_weight() / 16.0) as usize;
    let eos_token_ids =
        eos_token_ids(&generation_config, &model_config, tokenizer.as_deref(), architecture.vocab_size());
    let numerics = match config.numerics {
        NumericsMode::Strict => Numerics::Strict,
        NumericsMode::Fast => Numerics::Fast { naive_min_tokens: config.naive_min_tokens },
    };
    let spec = architecture.kv_cache_spec();
    let plan_kv = |budget: usize| KvPlan::new(config, &spec, dtype, wanted_len, budget);
    let model = |device: Device, max_model_len: usize| {
        let options = LoadOptions { device, dtype, quantization, max_model_len };
        load_weights(&architecture, &checkpoint, &model_config, options)
    };
    let runner_config = RunnerConfig {
        device: Device::Cpu,
        num_blocks: 1,
        block_size: config.block_size,
        cache_dtype: dtype,
        numerics,
        max_model_len: wanted_len,
        vocab_size: architecture.vocab_size(),
    };
    let (kv, executor): (KvPlan, Box<dyn Executor>) = match (executor, config.device) {
        (Some(executor), _) => (plan_kv(host_budget(config, weight_bytes))?, executor),
        (None, DeviceKind::Cpu) => {
            let kv = plan_kv(host_budget(config, weight_bytes))?;
            let (num_blocks, max_model_len) = (kv.num_blocks, kv.max_model_len);
            let runner = RunnerConfig { num_blocks, max_model_len, ..runner_config };
            let runner = ModelRunner::new(model(Device::Cpu, max_model_len)?, runner)?;
            let worker = WorkerConfig { num_threads: config.threads, eos_token_ids: eos_token_ids.clone() };
            (kv, Box::new(Worker::new(runner, worker)?))
        }
        (None, DeviceKind::Cuda(ordinal)) => {
            let device = open_gpu(ordinal).with_context(|| format!("device cuda:{ordinal} cannot be used"))?;
            let runner = RunnerConfig { device: device.clone(), ..runner_config };
            let runner = ModelRunner::new(model(device, wanted_len)?, runner)?;
            let (kv, worker) = gpu_worker(config, runner, &eos_token_ids, plan_kv)?;
            (kv, Box::new(worker))
        }
    };
    let engine_config = EngineConfig {
        scheduler: SchedulerConfig {
            num_blocks: kv.num_blocks,
            block_size: config.block_size,
            max_num_seqs: config.limits.max_num_seqs,
            max_num_batched_tokens: config.limits.max_num_batched_tokens,
            max_model_len: kv.max_model_len,
            // Places bound what is admitted, so the scheduler's own queue never overflows.
            max_num_waiting: usize::MAX,
            prefix_caching: config.prefix_caching,
            eos_token_ids: eos_token_ids.clone(),
        },
        max_num_admitted: config.limits.max_num_seqs + config.limits.max_queued_requests,
    };
    let observer = Arc::clone(state);
    let engine = Engine::start(engine_config, executor, move |step| observer.metrics.step(step))
        .context("cannot start the engine thread")?;
    let root = checkpoint.name();
    let model_names =
        if config.served_model_names.is_empty() { vec![root.clone()] } else { config.served_model_names.clone() };
    let dialect = config.dialect.or(renderer.as_ref().map(PromptRenderer::dialect)).unwrap_or(Dialect::Plain);
    let markers = tokenizer.as_deref().map(|tokenizer| Markers::new(dialect, tokenizer)).unwrap_or_default();
    let numerics_name = format!("{numerics:?}");
    let weights = weights_name(dtype, quantization);
    let device_class = match config.device {
        DeviceKind::Cpu => "cpu",
        DeviceKind::Cuda(_) => "cuda",
    };
    let checkpoint_digest = checkpoint.digest()?;
    let parts =
        Parts { checkpoint: &checkpoint_digest, weights: &weights, numerics: &numerics_name, device: device_class };
    let serving = Serving {
        engine: engine.handle(),
        tokenizer,
        renderer: renderer.map(Arc::new),
        dialect,
        markers: Arc::new(markers),
        grammars: OnceLock::new(),
        model_names,
        root,
        max_model_len: kv.max_model_len,
        vocab_size: architecture.vocab_size(),
        eos_token_ids,
        defaults: sampling_defaults(&generation_config),
        fingerprint: fingerprint(&parts),
        created: unix_now(),
    };
    state.metrics.start(&serving.model_names[0], config.block_size, kv.num_blocks);
    Ok(Loaded { engine, serving, kv_tokens: kv.num_blocks * config.block_size, weights })
}

/// A worker whose workspace is reserved, with a cache in what is left of the memory.
fn gpu_worker(
    config: &Config,
    runner: ModelRunner,
    eos_token_ids: &[u32],
    plan_kv: impl FnOnce(usize) -> Result<KvPlan>,
) -> Result<(KvPlan, GpuWorker)> {
    let gpu = Arc::clone(runner.gpu().context("the model is not on a GPU")?);
    let worker = GpuConfig {
        max_num_seqs: config.limits.max_num_seqs,
        max_num_batched_tokens: config.limits.max_num_batched_tokens,
        records_steps: true,
        eos_token_ids: eos_token_ids.to_vec(),
    };
    let mut worker =
        GpuWorker::new(runner, worker).context("the GPU's memory does not hold the model and its workspace")?;
    let kept_free = (gpu.info().memory_bytes as f64 * (1.0 - config.gpu_memory_utilization)) as usize;
    let free = gpu.free_bytes()?.saturating_sub(kept_free);
    let kv = plan_kv(config.kv_cache_bytes.unwrap_or(free))?;
    worker.resize_cache(kv.num_blocks, kv.max_model_len)?;
    tracing::info!("computing on {}", gpu.info().name);
    Ok((kv, worker))
}

/// Bytes of the host's memory for the cache.
fn host_budget(config: &Config, weight_bytes: usize) -> usize {
    match (config.kv_cache_bytes, &config.model) {
        (Some(bytes), _) => bytes,
        (None, None) => EMBEDDED_KV_BYTES,
        (None, Some(_)) => memory::available_bytes().map_or(FALLBACK_KV_BYTES, |available| {
            (available.saturating_sub(weight_bytes) as f64 * AUTO_KV_SHARE) as usize
        }),
    }
}

/// The compute type and what weights are quantised to.
fn number_types(config: &Config, model_config: &Value) -> Result<(DType, Quantization)> {
    let dtype = match config.dtype {
        // GPUs multiply bf16.
        Dtype::Auto if config.device != DeviceKind::Cpu => DType::BF16,
        Dtype::Auto => Architecture::natural_dtype(model_config)?,
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
    };
    Ok((dtype, config.quantization.into()))
}

/// For people, and for all that depends on it.
fn weights_name(dtype: DType, quantization: Quantization) -> String {
    match quantization {
        Quantization::None => dtype.as_str().to_owned(),
        Quantization::Int8 => "int8".to_owned(),
        Quantization::Int4 => "int4".to_owned(),
    }
}

fn open(config: &Config) -> Result<Checkpoint> {
    match &config.model {
        None => Ok(Checkpoint::Embedded { name: moesaic_demo_model::NAME, files: moesaic_demo_model::FILES }),
        Some(path) if !path.is_dir() => bail!("{}: there is no such folder", path.display()),
        Some(path) => Ok(Checkpoint::folder(Path::new(path))?),
    }
}

fn load_weights(
    architecture: &Architecture,
    checkpoint: &Checkpoint,
    config: &Value,
    options: LoadOptions,
) -> Result<Box<dyn CausalLm>> {
    let progress = Arc::new(Progress::default());
    let shown = Arc::clone(&progress);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let reporter = std::thread::spawn(move || {
        // Silent for a model that loads at once; a line now and then for a large one.
        while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_secs(2)) {
            let (done, total) = shown.bytes();
            let gigabytes = |bytes: u64| bytes as f64 / 1e9;
            tracing::info!("loading weights: {:.1} of {:.1} GB", gigabytes(done), gigabytes(total));
        }
    });
    let model = architecture.load(checkpoint, config, options, progress);
    drop(stop);
    // It only reports; if it panicked, loading is not affected.
    let _ = reporter.join();
    Ok(model?)
}

fn tokenizer(checkpoint: &Checkpoint, vocab_size: usize) -> Result<Option<Arc<Tokenizer>>> {
    let Some(bytes) = checkpoint.read("tokenizer.json")? else {
        tracing::warn!("the checkpoint has no tokenizer.json: only /v1/completions on token ids is served");
        return Ok(None);
    };
    let config = checkpoint.read_json("tokenizer_config.json")?;
    let tokenizer = Tokenizer::from_files(&bytes, config.as_ref(), vocab_size)?;
    Ok(Some(Arc::new(tokenizer)))
}

fn renderer(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Option<PromptRenderer>> {
    let file = checkpoint.read("chat_template.jinja")?;
    let source = match &file {
        Some(bytes) => Some(std::str::from_utf8(bytes).context("chat_template.jinja is not UTF-8")?),
        None => tokenizer.chat_template(),
    };
    let Some(source) = source else {
        tracing::warn!("the checkpoint has no chat template: /v1/chat/completions is not served");
        return Ok(None);
    };
    Ok(Some(PromptRenderer::new(source, tokenizer)?))
}

/// Ids that end a sequence: generation_config.json's, else config.json's, and the tokenizer's own.
fn eos_token_ids(generation: &Value, config: &Value, tokenizer: Option<&Tokenizer>, vocab_size: usize) -> Vec<u32> {
    let of = |value: &Value| -> Vec<u32> {
        let one = |value: &Value| value.as_u64().filter(|id| *id < vocab_size as u64).map(|id| id as u32);
        match value.as_array() {
            Some(list) => list.iter().filter_map(one).collect(),
            None => one(value).into_iter().collect(),
        }
    };
    let mut ids = of(&generation["eos_token_id"]);
    if ids.is_empty() {
        ids = of(&config["eos_token_id"]);
    }
    ids.extend(tokenizer.and_then(Tokenizer::eos_token_id));
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn sampling_defaults(generation: &Value) -> SamplingDefaults {
    let default = SamplingDefaults::default();
    let number = |key: &str, low: f64, high: f64, default: f32| {
        let value = generation[key].as_f64().filter(|value| *value > low && *value <= high);
        value.map_or(default, |value| value as f32)
    };
    SamplingDefaults {
        temperature: if generation["temperature"].as_f64() == Some(0.0) {
            0.0
        } else {
            number("temperature", 0.0, 2.0, default.temperature)
        },
        top_p: number("top_p", 0.0, 1.0, default.top_p),
        top_k: generation["top_k"].as_u64().and_then(|k| u32::try_from(k).ok()).unwrap_or(default.top_k),
        repetition_penalty: number("repetition_penalty", 0.0, 2.0, default.repetition_penalty),
    }
}

/// How much KV memory there is and how long sequences may be with it.
struct KvPlan {
    num_blocks: usize,
    max_model_len: usize,
}

impl KvPlan {
    fn new(config: &Config, spec: &KvCacheSpec, dtype: DType, wanted_len: usize, budget: usize) -> Result<Self> {
        let bytes_per_block = spec.bytes_per_token(dtype) * config.block_size;
        // More than all sequences can use would only be address space.
        let useful_blocks = config.limits.max_num_seqs * wanted_len.div_ceil(config.block_size);
        // Slots are numbered in 32 bits.
        let countable_blocks = u32::MAX as usize / config.block_size;
        let num_blocks = (budget / bytes_per_block).min(useful_blocks).min(countable_blocks);
        let capacity = num_blocks * config.block_size;
        if capacity >= wanted_len {
            return Ok(Self { num_blocks, max_model_len: wanted_len });
        }
        if config.max_model_len.is_some() || capacity < 2 {
            bail!(
                "{:.1} MB of KV cache hold {capacity} tokens, but max_model_len is {wanted_len}: \
                 give more kv_cache_memory or a smaller max_model_len",
                budget as f64 / 1e6
            );
        }
        tracing::warn!("the KV cache holds {capacity} tokens, so max_model_len is {capacity} instead of {wanted_len}");
        Ok(Self { num_blocks, max_model_len: capacity })
    }
}
