//! From a checkpoint to a running engine.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use moesaic_chat::{Dialect, Markers, PromptRenderer, Tokenizer};
use moesaic_engine::{Engine, EngineConfig, Executor};
use moesaic_model::{Architecture, Checkpoint};
use moesaic_protocol::TokenizerInfo;
use moesaic_scheduler::SchedulerConfig;
use serde_json::Value;

use crate::clock::unix_now;
use crate::compute::{Compute, Loading};
use crate::config::{Config, DeviceKind};
use crate::fingerprint::{Parts, fingerprint};
use crate::grammars;
use crate::state::{AppState, SamplingDefaults, Serving};
use crate::tokenizer_info;

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
    let device_class = match config.device {
        DeviceKind::Cpu => moesaic_model::arithmetic_name()?,
        DeviceKind::Cuda(_) => "cuda",
    };
    let checkpoint = open(config)?;
    let model_config = checkpoint.read_json("config.json")?.context("config.json is missing")?;
    let architecture = Architecture::from_config(&model_config)?;
    let tokenizer = tokenizer(&checkpoint, architecture.vocab_size())?;
    let renderer = tokenizer.as_deref().map(|tokenizer| renderer(&checkpoint, tokenizer)).transpose()?.flatten();
    let generation_config = checkpoint.read_json("generation_config.json")?.unwrap_or_default();
    let eos_token_ids =
        eos_token_ids(&generation_config, &model_config, tokenizer.as_deref(), architecture.vocab_size());
    let loading = Loading::new(config, &checkpoint, &model_config, &architecture, &eos_token_ids)?;
    let Compute { kv, executor } = loading.start(executor)?;
    let num_places = config.limits.max_num_seqs + config.limits.max_queued_requests;
    // Where there is more than one client, none gets all places.
    let kept = if config.api_keys.len() > 1 || config.keys.may_change() { num_places / 4 } else { 0 };
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
        max_num_admitted: num_places,
        max_num_admitted_per_client: num_places - kept,
    };
    let observer = Arc::clone(state);
    let engine = Engine::start(engine_config, executor, move |step| observer.metrics.step(step))
        .context("cannot start the engine thread")?;
    let root = checkpoint.name();
    let model_names =
        if config.served_model_names.is_empty() { vec![root.clone()] } else { config.served_model_names.clone() };
    let dialect = config.dialect.or(renderer.as_ref().map(PromptRenderer::dialect)).unwrap_or(Dialect::Plain);
    let markers = tokenizer.as_deref().map(|tokenizer| Markers::new(dialect, tokenizer)).unwrap_or_default();
    let (vocab_size, max_num_seqs) = (architecture.vocab_size(), config.limits.max_num_seqs);
    let host = |tokenizer| grammars::host(&checkpoint, tokenizer, vocab_size, &eos_token_ids, max_num_seqs);
    let grammars = tokenizer.as_deref().map(host).transpose()?;
    let numerics_name = format!("{:?}", loading.numerics());
    let weights = loading.types_name();
    let checkpoint_digest = checkpoint.digest()?;
    let parts =
        Parts { checkpoint: &checkpoint_digest, weights: &weights, numerics: &numerics_name, device: device_class };
    let tokenizer_info = tokenizer.is_some().then(|| tokenizer_info(&checkpoint)).transpose()?;
    let serving = Serving {
        engine: engine.handle(),
        tokenizer,
        renderer: renderer.map(Arc::new),
        dialect,
        markers: Arc::new(markers),
        grammars,
        model_names,
        root,
        max_model_len: kv.max_model_len,
        vocab_size,
        eos_token_ids,
        defaults: sampling_defaults(&generation_config),
        fingerprint: fingerprint(&parts),
        created: unix_now(),
        tokenizer_info,
    };
    state.metrics.start(&serving.model_names[0], config.block_size, kv.num_blocks);
    Ok(Loaded { engine, serving, kv_tokens: kv.num_blocks * config.block_size, weights })
}

fn tokenizer_info(checkpoint: &Checkpoint) -> Result<TokenizerInfo> {
    let template = checkpoint.read("chat_template.jinja")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(tokenizer_info::tokenizer_info(checkpoint.read_json("tokenizer_config.json")?, template))
}

fn open(config: &Config) -> Result<Checkpoint> {
    match &config.model {
        None => Ok(Checkpoint::Embedded { name: moesaic_demo_model::NAME, files: moesaic_demo_model::FILES }),
        Some(path) if !path.is_dir() => bail!("{}: there is no such folder", path.display()),
        Some(path) => Ok(Checkpoint::folder(Path::new(path))?),
    }
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

/// The checkpoint's chat templates: files, else tokenizer_config.json's; `tool_use` is for requests with tools.
fn renderer(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Option<PromptRenderer>> {
    let read = |file: &str| -> Result<Option<String>> {
        let bytes = checkpoint.read(file)?;
        bytes.map(|bytes| String::from_utf8(bytes).with_context(|| format!("{file} is not UTF-8"))).transpose()
    };
    let files = (read("chat_template.jinja")?, read("additional_chat_templates/tool_use.jinja")?);
    let of_config = |name| tokenizer.chat_template(name).map(str::to_owned);
    let (default, tool_use) = match files {
        (None, None) => (of_config("default"), of_config("tool_use")),
        (None, tool_use) => (of_config("default"), tool_use),
        files => files,
    };
    let Some(source) = default else {
        tracing::warn!("the checkpoint has no chat template: /v1/chat/completions is not served");
        return Ok(None);
    };
    let mut renderer = PromptRenderer::new(&source, tokenizer)?;
    if let Some(source) = tool_use {
        renderer = renderer.with_tool_use(&source, tokenizer).context("the chat template tool_use")?;
    }
    tracing::info!("template: {}", renderer.summary());
    Ok(Some(renderer))
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
        max_new_tokens: generation["max_new_tokens"].as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
    }
}
