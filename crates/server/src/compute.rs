//! What computes: the model on its device, its worker, and the memory for keys and values.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use candle_core::DType;
use moesaic_engine::Executor;
use moesaic_model::{Architecture, CausalLm, Checkpoint, Device, LoadOptions, Progress, Quantization};
use moesaic_worker::{GpuConfig, GpuWorker, ModelRunner, Numerics, RunnerConfig, Worker, WorkerConfig, open_gpu};
use serde_json::Value;

use crate::config::{Config, DeviceKind, Dtype, KvCacheDtype, NumericsMode};
use crate::memory;

/// Tokens that the embedded model's KV cache holds: one sequence of the longest kind and a little more. In bf16 that is
/// 64 MiB: it runs beside whatever else a first-time user has open.
const EMBEDDED_KV_TOKENS: usize = 69_904;
/// Share of the free memory that `auto` gives to the KV cache on the CPU.
const AUTO_KV_SHARE: f64 = 0.5;
/// KV memory where the system does not say what is free.
const FALLBACK_KV_BYTES: usize = 4 << 30;

/// What a GPU's driver rounds sizes up to.
const DRIVER_PIECE: usize = 2 << 20;
/// Left for recorded decode steps.
const RECORDS_BYTES: usize = 64 << 20;

/// How much KV memory there is and how long sequences may be with it.
#[derive(Debug, Clone, Copy)]
pub struct KvPlan {
    /// Blocks of `block_size` tokens.
    pub num_blocks: usize,
    /// Longest sequence.
    pub max_model_len: usize,
}

/// A worker and its KV memory.
pub struct Compute {
    /// What the scheduler may hand out.
    pub kv: KvPlan,
    /// Runs steps.
    pub executor: Box<dyn Executor>,
}

/// All that decides how a checkpoint is loaded.
pub struct Loading<'a> {
    config: &'a Config,
    checkpoint: &'a Checkpoint,
    model_config: &'a Value,
    architecture: &'a Architecture,
    eos_token_ids: &'a [u32],
    dtype: DType,
    wanted_len: usize,
}

impl<'a> Loading<'a> {
    /// Settings and checkpoint together.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub fn new(
        config: &'a Config,
        checkpoint: &'a Checkpoint,
        model_config: &'a Value,
        architecture: &'a Architecture,
        eos_token_ids: &'a [u32],
    ) -> Result<Self> {
        let dtype = match config.dtype {
            // GPUs multiply bf16.
            Dtype::Auto if config.device != DeviceKind::Cpu => DType::BF16,
            Dtype::Auto => Architecture::natural_dtype(model_config)?,
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
        };
        let max_positions = architecture.max_position_embeddings();
        let wanted_len = config.max_model_len.unwrap_or(max_positions);
        if wanted_len > max_positions {
            if !config.allow_long_max_model_len {
                bail!(
                    "max_model_len is {wanted_len}, but the model was made for at most {max_positions} tokens; \
                     --allow-long-max-model-len serves more, whatever its answers are worth there"
                );
            }
            tracing::warn!(
                "max_model_len is {wanted_len}, but the model was made for at most {max_positions} tokens: \
                 what it says beyond them may mean nothing"
            );
        }
        if wanted_len < 2 {
            bail!("config.json: max_position_embeddings is {max_positions}: no room for a prompt and an answer");
        }
        Ok(Self { config, checkpoint, model_config, architecture, eos_token_ids, dtype, wanted_len })
    }

    /// How much may influence the bits.
    pub fn numerics(&self) -> Numerics {
        match self.config.numerics {
            NumericsMode::Strict => Numerics::Strict,
            NumericsMode::Fast => Numerics::Fast { naive_min_tokens: self.config.naive_min_tokens },
        }
    }

    /// The type of weights and cache, for people and for all that depends on it.
    pub fn types_name(&self) -> String {
        let weights = match self.config.quantization.into() {
            Quantization::None => self.dtype.as_str(),
            Quantization::Int8 => "int8",
            Quantization::Int4 => "int4",
        };
        match self.config.kv_cache_dtype {
            KvCacheDtype::Auto => weights.to_owned(),
            KvCacheDtype::Fp8 => format!("{weights}, KV fp8"),
        }
    }

    /// Loads the weights and makes a worker of them; or takes `executor` as it is.
    ///
    /// # Errors
    /// When the checkpoint is broken, or memory or device are not there.
    pub fn start(&self, executor: Option<Box<dyn Executor>>) -> Result<Compute> {
        if let Some(executor) = executor {
            return Ok(Compute { kv: self.plan_kv(self.host_budget()?)?, executor });
        }
        match self.config.device {
            DeviceKind::Cpu => self.start_on_cpu(),
            DeviceKind::Cuda(ordinal) => self.start_on_gpu(ordinal),
        }
    }

    fn start_on_cpu(&self) -> Result<Compute> {
        let kv = self.plan_kv(self.host_budget()?)?;
        let runner = self.runner(Device::Cpu, kv)?;
        let worker = WorkerConfig { num_threads: self.config.threads, eos_token_ids: self.eos_token_ids.to_vec() };
        Ok(Compute { kv, executor: Box::new(Worker::new(runner, worker)?) })
    }

    /// Weights first, then the workspace; the cache takes what is left.
    fn start_on_gpu(&self, ordinal: usize) -> Result<Compute> {
        let config = self.config;
        let device = open_gpu(ordinal).with_context(|| format!("device cuda:{ordinal} cannot be used"))?;
        let runner = self.runner(device, KvPlan { num_blocks: 1, max_model_len: self.wanted_len })?;
        let gpu = Arc::clone(runner.gpu().context("the model is not on a GPU")?);
        let worker = GpuConfig {
            max_num_seqs: config.limits.max_num_seqs,
            max_num_batched_tokens: config.limits.max_num_batched_tokens,
            records_steps: true,
            eos_token_ids: self.eos_token_ids.to_vec(),
        };
        let mut worker = GpuWorker::new(runner, worker).context("the GPU does not hold the model and its workspace")?;
        let kept_free = (gpu.info().memory_bytes as f64 * (1.0 - config.gpu_memory_utilization)) as usize;
        // The driver gives memory in large pieces, each layer has its own, and recorded steps take some too.
        let spec = self.architecture.kv_cache_spec();
        let num_layers: usize = spec.groups.iter().map(|group| group.num_layers).sum();
        let rounding = num_layers * DRIVER_PIECE + spec.bytes_per_token(self.cache_dtype()) * config.block_size;
        let free = gpu.free_bytes()?.saturating_sub(kept_free).saturating_sub(rounding + RECORDS_BYTES);
        let kv = self.plan_kv(config.kv_cache_bytes.unwrap_or(free))?;
        worker.resize_cache(kv.num_blocks, kv.max_model_len)?;
        tracing::info!("computing on {}, {:.1} GB of its memory left", gpu.info().name, gpu.free_bytes()? as f64 / 1e9);
        Ok(Compute { kv, executor: Box::new(worker) })
    }

    fn runner(&self, device: Device, kv: KvPlan) -> Result<ModelRunner> {
        let runner = RunnerConfig {
            device: device.clone(),
            num_blocks: kv.num_blocks,
            block_size: self.config.block_size,
            cache_dtype: self.cache_dtype(),
            numerics: self.numerics(),
            max_model_len: kv.max_model_len,
            vocab_size: self.architecture.vocab_size(),
        };
        let quantization = self.config.quantization.into();
        let options = LoadOptions { device, dtype: self.dtype, quantization, max_model_len: kv.max_model_len };
        Ok(ModelRunner::new(self.load_weights(options)?, runner)?)
    }

    fn load_weights(&self, options: LoadOptions) -> Result<Box<dyn CausalLm>> {
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
        let model = self.architecture.load(self.checkpoint, self.model_config, options, progress);
        drop(stop);
        // It only reports; if it panicked, loading is not affected.
        let _ = reporter.join();
        Ok(model?)
    }

    /// Bytes of the host's memory for the cache.
    fn host_budget(&self) -> Result<usize> {
        // Quantised weights are widened to the compute type; f32 takes twice what bf16 files hold.
        let widens = self.dtype == DType::F32 || !self.model_config["quantization_config"].is_null();
        let widened_bytes = self.checkpoint.weight_file_bytes()? * if widens { 2 } else { 1 };
        let bits_per_weight = Quantization::from(self.config.quantization).bits_per_weight();
        let weight_bytes = (widened_bytes as f64 * bits_per_weight / 16.0) as usize;
        Ok(match (self.config.kv_cache_bytes, &self.config.model) {
            (Some(bytes), _) => bytes,
            (None, None) => EMBEDDED_KV_TOKENS * self.architecture.kv_cache_spec().bytes_per_token(self.cache_dtype()),
            (None, Some(_)) => memory::available_bytes().map_or(FALLBACK_KV_BYTES, |available| {
                (available.saturating_sub(weight_bytes) as f64 * AUTO_KV_SHARE) as usize
            }),
        })
    }

    fn cache_dtype(&self) -> DType {
        match self.config.kv_cache_dtype {
            KvCacheDtype::Auto => self.dtype,
            KvCacheDtype::Fp8 => DType::U8,
        }
    }

    fn plan_kv(&self, budget: usize) -> Result<KvPlan> {
        let Self { config, wanted_len, .. } = *self;
        let bytes_per_block = self.architecture.kv_cache_spec().bytes_per_token(self.cache_dtype()) * config.block_size;
        // More than all sequences can use would only be address space.
        let useful_blocks = config.limits.max_num_seqs * wanted_len.div_ceil(config.block_size);
        // Slots are numbered in 32 bits.
        let countable_blocks = u32::MAX as usize / config.block_size;
        let num_blocks = (budget / bytes_per_block).min(useful_blocks).min(countable_blocks - 1);
        let capacity = num_blocks * config.block_size;
        if capacity >= wanted_len {
            return Ok(KvPlan { num_blocks, max_model_len: wanted_len });
        }
        if config.max_model_len.is_some() || capacity < 2 {
            bail!(
                "{:.1} MB of KV cache hold {capacity} tokens, but max_model_len is {wanted_len}: \
                 give more kv_cache_memory or a smaller max_model_len",
                budget as f64 / 1e6
            );
        }
        tracing::warn!("the KV cache holds {capacity} tokens, so max_model_len is {capacity} instead of {wanted_len}");
        Ok(KvPlan { num_blocks, max_model_len: capacity })
    }
}
