//! Which architecture a checkpoint is, and how it is loaded.

use std::sync::Arc;

use candle_core::DType;
use moesaic_kernels::Device;
use serde_json::Value;

use crate::fields::Fields;
use crate::models::deepseek::DeepSeek;
use crate::{CausalLm, Checkpoint, DeepSeekConfig, KvCacheSpec, ModelError, Progress, Quantization, Weights};

/// A recognised checkpoint with its checked configuration.
#[derive(Debug, Clone)]
pub enum Architecture {
    /// DeepSeek-V2, V2-Lite, V3, R1, Kimi-K2.
    DeepSeek(Box<DeepSeekConfig>),
}

/// What loading needs to know beyond the checkpoint.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where is computed.
    pub device: Device,
    /// Type of weights and activations.
    pub dtype: DType,
    /// Of weights in bf16.
    pub quantization: Quantization,
    /// Longest sequence that will be computed.
    pub max_model_len: usize,
}

impl Architecture {
    /// Recognises config.json.
    ///
    /// # Errors
    /// Names what is missing or not supported.
    pub fn from_config(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields::of(config, "the file")?;
        let model_type = fields.optional_text("model_type")?.unwrap_or_default();
        match model_type {
            "deepseek_v2" | "deepseek_v3" | "kimi_k2" => {
                Ok(Self::DeepSeek(Box::new(DeepSeekConfig::from_json(config)?)))
            }
            "" => Err(ModelError::config("`model_type` is missing")),
            other => Err(ModelError::Unsupported(format!(
                "config.json: model_type {other:?} is not supported; supported are deepseek_v2, deepseek_v3 and kimi_k2"
            ))),
        }
    }

    /// Tokens that the model has embeddings for.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::DeepSeek(config) => config.vocab_size,
        }
    }

    /// What the model caches per token.
    pub fn kv_cache_spec(&self) -> KvCacheSpec {
        match self {
            Self::DeepSeek(config) => config.kv_cache_spec(),
        }
    }

    /// Longest context the model was made for.
    pub fn max_position_embeddings(&self) -> usize {
        match self {
            Self::DeepSeek(config) => config.max_position_embeddings,
        }
    }

    /// Loads the weights.
    ///
    /// # Errors
    /// When a file or tensor is missing, broken or does not fit the config.
    pub fn load(
        &self,
        checkpoint: &Checkpoint,
        config: &Value,
        options: LoadOptions,
        progress: Arc<Progress>,
    ) -> Result<Box<dyn CausalLm>, ModelError> {
        if options.quantization != Quantization::None && options.dtype != DType::BF16 {
            return Err(ModelError::Unsupported(
                "quantization is of weights in bf16, but dtype is f32: give bf16 too".to_owned(),
            ));
        }
        if options.device.gpu().is_some() {
            if options.dtype != DType::BF16 {
                return Err(ModelError::Unsupported("on a GPU is computed in bf16, but dtype is f32".to_owned()));
            }
            if options.quantization != Quantization::None {
                return Err(ModelError::Unsupported(
                    "int8 and int4 weights are computed with on the CPU; on a GPU FP8 checkpoints keep their 8 bits"
                        .to_owned(),
                ));
            }
        }
        let weights = Weights::open(checkpoint, &options, fp8_block(config)?, progress)?;
        match self {
            Self::DeepSeek(config) => {
                Ok(Box::new(DeepSeek::load(config.as_ref().clone(), &weights, options.max_model_len)?))
            }
        }
    }

    /// The compute type that the checkpoint itself suggests. f16 becomes bf16: DeepSeek-V2's
    /// activations overflow f16.
    ///
    /// # Errors
    /// When config.json names a type that is not one.
    pub fn natural_dtype(config: &Value) -> Result<DType, ModelError> {
        let fields = Fields::of(config, "the file")?;
        let name = fields.optional_text("torch_dtype")?.or(fields.optional_text("dtype")?);
        match name {
            Some("float32") if fields.get("quantization_config").is_none() => Ok(DType::F32),
            None | Some("float32" | "bfloat16" | "float16") => Ok(DType::BF16),
            Some(other) => {
                Err(ModelError::config(format!("`torch_dtype` is {other:?}, expected float32, bfloat16 or float16")))
            }
        }
    }
}

/// Rows and columns that share an FP8 scale, where the checkpoint is quantised so.
fn fp8_block(config: &Value) -> Result<Option<(usize, usize)>, ModelError> {
    let Some(quantization) = Fields::of(config, "the file")?.object("quantization_config")? else {
        return Ok(None);
    };
    let method = quantization.optional_text("quant_method")?.unwrap_or_default();
    if method != "fp8" || quantization.optional_text("fmt")?.is_some_and(|format| format != "e4m3") {
        return Err(ModelError::Unsupported(format!(
            "config.json: quantization_config of method {method:?} is not supported; fp8 in e4m3 with block scales is"
        )));
    }
    let sizes = quantization.get("weight_block_size").and_then(Value::as_array);
    let size = |index: usize| {
        let value = sizes.and_then(|sizes| sizes.get(index)).and_then(Value::as_u64);
        value.filter(|size| (1..=1 << 20).contains(size)).map(|size| size as usize)
    };
    match (size(0), size(1)) {
        (Some(rows), Some(columns)) => Ok(Some((rows, columns))),
        _ => Err(ModelError::config("`weight_block_size` of the quantization_config is missing or not two sizes")),
    }
}
