//! Settings that are one of a few words.

use clap::ValueEnum;
use moesaic_model::Quantization;
use serde::{Deserialize, Serialize};

/// `--device`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl std::str::FromStr for DeviceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ordinal = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            other => other.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
        };
        ordinal.map(Self::Cuda).ok_or_else(|| format!("device is {text:?}, expected cpu, cuda or cuda:N"))
    }
}

/// `--dtype`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// What the checkpoint says; f16 becomes bf16.
    Auto,
    /// 32-bit.
    F32,
    /// 16-bit with f32's range.
    Bf16,
}

/// `--hosted-tools`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostedTools {
    /// Pass them over, unless a request forces one.
    Ignore,
    /// Refuse requests that offer them.
    Refuse,
}

/// `--port`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "u16")]
pub enum PortSetting {
    /// The port.
    Port(u16),
    /// What Kubernetes puts into `MOESAIC_PORT` beside a Service called moesaic.
    ServiceLink,
}

impl From<u16> for PortSetting {
    fn from(port: u16) -> Self {
        Self::Port(port)
    }
}

impl std::str::FromStr for PortSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("tcp://") || text.starts_with("udp://") {
            return Ok(Self::ServiceLink);
        }
        text.parse().map(Self::Port).map_err(|_| "expected a number from 0 to 65535".to_owned())
    }
}

/// `--kv-cache-dtype`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheDtype {
    /// That of the weights.
    Auto,
    /// Latents in e4m3 with a scale per 128 of them.
    Fp8,
}

/// `--quantization`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantizationKind {
    /// The checkpoint's values.
    None,
    /// 8 bits.
    Int8,
    /// 4 bits in the feed-forward layers, 8 elsewhere.
    Int4,
}

impl From<QuantizationKind> for Quantization {
    fn from(kind: QuantizationKind) -> Self {
        match kind {
            QuantizationKind::None => Self::None,
            QuantizationKind::Int8 => Self::Int8,
            QuantizationKind::Int4 => Self::Int4,
        }
    }
}

/// `--numerics`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NumericsMode {
    /// Bits depend on the request alone.
    Strict,
    /// Long prompts take fewer operations.
    Fast,
}

/// `--scheduling-policy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingPolicy {
    /// In order of arrival.
    Fcfs,
    /// By the requests' `priority`, then arrival. Clients can starve each other.
    Priority,
}

/// `--log`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}
