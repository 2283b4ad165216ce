//! Configuration: TOML file, then environment, then command line; raw, then checked.
//!
//! This is the only place that reads the environment. What cannot be parsed or makes no sense
//! refuses to start and says where.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use moesaic_chat::Dialect;
use serde::{Deserialize, Serialize};

mod checks;
mod environment;
mod keys;
mod kinds;

pub use checks::ConfigError;
use checks::{at_most, bounded, log_level, long_secret, origins, parse_size, seconds, some_seconds};
pub use environment::unknown_variables;
pub use keys::KeySource;
pub use kinds::{
    DeviceKind, Dtype, HostedTools, KvCacheDtype, LogFormat, NumericsMode, PortSetting, QuantizationKind,
    SchedulingPolicy,
};

/// Positions are counted as whole numbers in f32, where the rotary embedding turns them into angles.
const MAX_POSITIONS: usize = 1 << 24;

macro_rules! raw_config {
    ($($(#[$meta:meta])* $name:ident: $type:ty,)*) => {
        /// Settings as they were written, each absent unless given.
        #[derive(Debug, Clone, Default, PartialEq, Args, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        pub struct RawConfig {
            $($(#[$meta])* pub $name: Option<$type>,)*
        }

        impl RawConfig {
            /// These settings where given, else those of `base`.
            #[must_use]
            pub fn or(self, base: Self) -> Self {
                Self { $($name: self.$name.or(base.$name),)* }
            }
        }
    };
}

raw_config! {
    /// Checkpoint folder (Hugging Face layout) [default: the small model inside the program]
    #[arg(long, env = "MOESAIC_MODEL", value_name = "DIR", help_heading = "Model")]
    model: PathBuf,
    /// Names that requests may call the model; the first is reported [default: the folder's name]
    #[arg(long, env = "MOESAIC_SERVED_MODEL_NAME", value_name = "NAME", value_delimiter = ',', help_heading = "Model")]
    served_model_name: Vec<String>,
    /// Prompt format: how thoughts and tool calls are written [default: what the chat template shows]
    #[arg(long, env = "MOESAIC_DIALECT", value_name = "NAME", help_heading = "Model")]
    dialect: String,
    /// Type of weights and activations [default: auto, the checkpoint's own]
    #[arg(long, env = "MOESAIC_DTYPE", value_enum, help_heading = "Model")]
    dtype: Dtype,
    /// Fewer bits per weight, made while loading: int8, or int4 in the feed-forward layers [default: none]
    #[arg(long, env = "MOESAIC_QUANTIZATION", value_enum, help_heading = "Model")]
    quantization: QuantizationKind,
    /// Longest sequence, prompt and output together, in tokens [default: the model's]
    #[arg(long, env = "MOESAIC_MAX_MODEL_LEN", value_name = "N", help_heading = "Model")]
    max_model_len: usize,
    /// Take a max_model_len beyond what the model's config says; what it answers there may mean nothing [default: false]
    #[arg(
        long, env = "MOESAIC_ALLOW_LONG_MAX_MODEL_LEN", value_name = "BOOL", help_heading = "Model",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    allow_long_max_model_len: bool,
    /// strict: bits depend on the request alone; fast: long prompts use fewer operations [default: strict, on a GPU fast]
    #[arg(long, env = "MOESAIC_NUMERICS", value_enum, help_heading = "Model")]
    numerics: NumericsMode,
    /// With numerics fast: prompt chunks of at least this many tokens use the naive attention form [default: 170]
    #[arg(long, env = "MOESAIC_NAIVE_MIN_TOKENS", value_name = "N", help_heading = "Model")]
    naive_min_tokens: usize,

    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, env = "MOESAIC_HOST", value_name = "IP", help_heading = "Server")]
    host: IpAddr,
    /// Port to listen on; 0 for any free one [default: 8000]
    #[arg(long, env = "MOESAIC_PORT", value_name = "PORT", help_heading = "Server")]
    port: PortSetting,
    /// Keys that clients must show; without any, everybody may use the server
    #[arg(long, env = "MOESAIC_API_KEY", value_name = "KEY", value_delimiter = ',', hide_env_values = true, help_heading = "Server")]
    api_key: Vec<String>,
    /// File with one key per line, read again when it changes; what follows a # is a comment
    #[arg(long, env = "MOESAIC_API_KEY_FILE", value_name = "FILE", help_heading = "Server")]
    api_key_file: PathBuf,
    /// Ask for a key on /metrics too [default: false]
    #[arg(long, env = "MOESAIC_PROTECT_METRICS", value_name = "BOOL", help_heading = "Server")]
    protect_metrics: bool,
    /// Web origins that may call the server from a browser; * for any [default: *]
    #[arg(long, env = "MOESAIC_CORS_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', help_heading = "Server")]
    cors_allow_origin: Vec<String>,
    /// Tools of requests to /v1/responses that only their makers' servers have (web_search …): pass over or refuse [default: ignore]
    #[arg(long, env = "MOESAIC_HOSTED_TOOLS", value_enum, help_heading = "Server")]
    hosted_tools: HostedTools,
    /// What servers share that open each other's encrypted thoughts and summaries, at least 16 characters [default: random]
    #[arg(long, env = "MOESAIC_ENCRYPTED_CONTENT_KEY", value_name = "SECRET", hide_env_values = true, help_heading = "Server")]
    encrypted_content_key: String,

    /// Sequences that run at once [default: 64]
    #[arg(long, env = "MOESAIC_MAX_NUM_SEQS", value_name = "N", help_heading = "Limits")]
    max_num_seqs: usize,
    /// Tokens computed in one step [default: 512]
    #[arg(long, env = "MOESAIC_MAX_NUM_BATCHED_TOKENS", value_name = "N", help_heading = "Limits")]
    max_num_batched_tokens: usize,
    /// Sequences that wait for their turn; further requests get 429 [default: 1024]
    #[arg(long, env = "MOESAIC_MAX_QUEUED_REQUESTS", value_name = "N", help_heading = "Limits")]
    max_queued_requests: usize,
    /// fcfs: first come, first served; priority: requests may say who goes first [default: fcfs]
    #[arg(long, env = "MOESAIC_SCHEDULING_POLICY", value_enum, help_heading = "Limits")]
    scheduling_policy: SchedulingPolicy,
    /// Largest n of a request: answers to each of its prompts [default: 16]
    #[arg(long, env = "MOESAIC_MAX_CHOICES", value_name = "N", help_heading = "Limits")]
    max_choices: usize,
    /// Largest request body in bytes [default: 8388608]
    #[arg(long, env = "MOESAIC_MAX_BODY_BYTES", value_name = "N", help_heading = "Limits")]
    max_body_bytes: usize,
    /// Memory for responses that clients of /v1/responses may come back to; 0 to keep none [default: 64MiB]
    #[arg(long, env = "MOESAIC_RESPONSE_STORE_MEMORY", value_name = "SIZE", help_heading = "Limits")]
    response_store_memory: String,
    /// Seconds that a request may take in all; 0 for no limit [default: 0]
    #[arg(long, env = "MOESAIC_REQUEST_TIMEOUT_SECONDS", value_name = "N", help_heading = "Limits")]
    request_timeout_seconds: u64,
    /// Seconds that a request may wait for its first token; 0 for no limit [default: 0]
    #[arg(long, env = "MOESAIC_QUEUE_TIMEOUT_SECONDS", value_name = "N", help_heading = "Limits")]
    queue_timeout_seconds: u64,
    /// Seconds between keep-alive comments in a silent stream [default: 15]
    #[arg(long, env = "MOESAIC_KEEP_ALIVE_SECONDS", value_name = "N", help_heading = "Limits")]
    keep_alive_seconds: u64,
    /// Connections that are open at once; further ones get 503 [default: 4096, or what the system's open files allow]
    #[arg(long, env = "MOESAIC_MAX_CONNECTIONS", value_name = "N", help_heading = "Limits")]
    max_connections: usize,
    /// Seconds that a request's headers may take to arrive [default: 30]
    #[arg(long, env = "MOESAIC_HEADER_TIMEOUT_SECONDS", value_name = "N", help_heading = "Limits")]
    header_timeout_seconds: u64,
    /// Seconds that a connection may wait for its next request [default: 75]
    #[arg(long, env = "MOESAIC_IDLE_TIMEOUT_SECONDS", value_name = "N", help_heading = "Limits")]
    idle_timeout_seconds: u64,
    /// Seconds that a client may take nothing of an answer that waits for it [default: 60]
    #[arg(long, env = "MOESAIC_WRITE_TIMEOUT_SECONDS", value_name = "N", help_heading = "Limits")]
    write_timeout_seconds: u64,
    /// Seconds that requests are still taken after SIGTERM, while /ready says no [default: 5, on a loopback address 0]
    #[arg(long, env = "MOESAIC_DRAIN_DELAY_SECONDS", value_name = "N", help_heading = "Limits")]
    drain_delay_seconds: u64,
    /// WebSockets of /v1/responses that may be open at once; further ones get 503 [default: 256]
    #[arg(long, env = "MOESAIC_MAX_WEBSOCKETS", value_name = "N", help_heading = "Limits")]
    max_websockets: usize,
    /// Seconds without a message after which an idle WebSocket is closed [default: 600]
    #[arg(long, env = "MOESAIC_WEBSOCKET_IDLE_SECONDS", value_name = "N", help_heading = "Limits")]
    websocket_idle_seconds: u64,
    /// Seconds after which a WebSocket is closed in any case, once its response has ended [default: 3600]
    #[arg(long, env = "MOESAIC_WEBSOCKET_MAX_SECONDS", value_name = "N", help_heading = "Limits")]
    websocket_max_seconds: u64,
    /// Seconds that requests in flight get to finish when the server is told to stop [default: 30]
    #[arg(long, env = "MOESAIC_SHUTDOWN_GRACE_SECONDS", value_name = "N", help_heading = "Limits")]
    shutdown_grace_seconds: u64,
    /// Seconds without a finished step, while work waits, after which /live fails [default: 120]
    #[arg(long, env = "MOESAIC_STALL_SECONDS", value_name = "N", help_heading = "Limits")]
    stall_seconds: u64,

    /// Device to compute on: cpu, cuda or cuda:N [default: cpu]
    #[arg(long, env = "MOESAIC_DEVICE", value_name = "DEVICE", help_heading = "Resources")]
    device: String,
    /// Threads that compute [default: one per core]
    #[arg(long, env = "MOESAIC_THREADS", value_name = "N", help_heading = "Resources")]
    threads: usize,
    /// Memory for keys and values: auto, or a size such as 512MB or 4GiB [default: auto]
    #[arg(long, env = "MOESAIC_KV_CACHE_MEMORY", value_name = "SIZE", help_heading = "Resources")]
    kv_cache_memory: String,
    /// Share of a GPU's memory that may be used [default: 0.9]
    #[arg(long, env = "MOESAIC_GPU_MEMORY_UTILIZATION", value_name = "SHARE", help_heading = "Resources")]
    gpu_memory_utilization: f64,
    /// Type of keys and values in the cache: auto, that of the weights; fp8, about half of it, on a GPU [default: auto]
    #[arg(long, env = "MOESAIC_KV_CACHE_DTYPE", value_enum, help_heading = "Resources")]
    kv_cache_dtype: KvCacheDtype,
    /// Tokens per KV block [default: 16]
    #[arg(long, env = "MOESAIC_BLOCK_SIZE", value_name = "N", help_heading = "Resources")]
    block_size: usize,
    /// Reuse what was computed for equal prompt beginnings [default: true]
    #[arg(long, env = "MOESAIC_ENABLE_PREFIX_CACHING", value_name = "BOOL", help_heading = "Resources")]
    enable_prefix_caching: bool,

    /// Shape of log lines [default: pretty]
    #[arg(long, env = "MOESAIC_LOG", value_enum, help_heading = "Logging")]
    log: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter such as info,moesaic=debug [default: info]
    #[arg(long, env = "MOESAIC_LOG_LEVEL", value_name = "FILTER", help_heading = "Logging")]
    log_level: String,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `None`: the embedded model.
    pub model: Option<PathBuf>,
    /// Empty: the checkpoint's own name.
    pub served_model_names: Vec<String>,
    /// `None`: what the chat template shows.
    pub dialect: Option<Dialect>,
    /// Compute type.
    pub dtype: Dtype,
    /// Of weights, while loading.
    pub quantization: QuantizationKind,
    /// `None`: the model's.
    pub max_model_len: Option<usize>,
    /// Whether it may be more than the model's.
    pub allow_long_max_model_len: bool,
    /// How much may influence the bits.
    pub numerics: NumericsMode,
    /// Threshold of the naive form.
    pub naive_min_tokens: usize,
    /// Listening address.
    pub host: IpAddr,
    /// Listening port.
    pub port: u16,
    /// Accepted keys; none for an open server.
    pub api_keys: Vec<String>,
    /// Where they are read again.
    pub keys: KeySource,
    /// Whether /metrics needs a key.
    pub protect_metrics: bool,
    /// Browser origins; contains "*" for any.
    pub cors_allow_origins: Vec<String>,
    /// What becomes of tools that are not ours.
    pub hosted_tools: HostedTools,
    /// What servers share that open each other's encrypted texts.
    pub encrypted_content_key: Option<String>,
    /// Bounds of requests and queues.
    pub limits: Limits,
    /// Where is computed.
    pub device: DeviceKind,
    /// Share of a GPU's memory.
    pub gpu_memory_utilization: f64,
    /// Compute threads.
    pub threads: usize,
    /// Bytes for the KV cache; `None` to choose by free memory.
    pub kv_cache_bytes: Option<usize>,
    /// Type of keys and values.
    pub kv_cache_dtype: KvCacheDtype,
    /// Tokens per block.
    pub block_size: usize,
    /// Prefix cache on.
    pub prefix_caching: bool,
    /// Shape of log lines.
    pub log: LogFormat,
    /// Log filter.
    pub log_level: String,
}

/// Bounds of requests and queues.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Sequences that run at once.
    pub max_num_seqs: usize,
    /// Tokens per step.
    pub max_num_batched_tokens: usize,
    /// Sequences that wait.
    pub max_queued_requests: usize,
    /// Whether requests may have priorities.
    pub priorities: bool,
    /// Choices per prompt.
    pub max_choices: usize,
    /// Bytes per request body.
    pub max_body_bytes: usize,
    /// Bytes of responses that are kept.
    pub response_store_bytes: usize,
    /// For the whole request.
    pub request_timeout: Option<Duration>,
    /// For the first token.
    pub queue_timeout: Option<Duration>,
    /// Between keep-alive comments.
    pub keep_alive: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// For a request's head.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// Without a byte taken of an answer.
    pub write_timeout: Duration,
    /// For balancers to notice that the server leaves; `None`: by address and signal.
    pub drain_delay: Option<Duration>,
    /// WebSockets at once.
    pub max_websockets: usize,
    /// Without a message before a WebSocket is closed.
    pub websocket_idle: Duration,
    /// For a WebSocket in all.
    pub websocket_max: Duration,
    /// For finishing when told to stop.
    pub shutdown_grace: Duration,
    /// Without progress before /live fails.
    pub stall: Duration,
}

/// Where it listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 8000;

impl RawConfig {
    /// The port, if one is given.
    pub fn own_port(&self) -> Option<u16> {
        match self.port {
            Some(PortSetting::Port(port)) => Some(port),
            Some(PortSetting::ServiceLink) | None => None,
        }
    }

    /// Forgets what is no setting but Kubernetes' word for a Service called moesaic. Whether there was such.
    pub fn forget_service_link(&mut self) -> bool {
        self.port.take_if(|port| *port == PortSetting::ServiceLink).is_some()
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// Names file, line and key of what is wrong.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("cannot read the configuration {}: {error}", path.display())))?;
        toml::from_str(&text).map_err(|error| ConfigError(format!("{}: {error}", path.display())))
    }

    /// Fills in defaults and checks that the settings make sense together.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let device: DeviceKind = self.device.as_deref().unwrap_or("cpu").parse().map_err(ConfigError)?;
        let limits = self.limits()?;
        let port = self.own_port().unwrap_or(DEFAULT_PORT);
        let keys = KeySource::new(self.api_key, self.api_key_file)?;
        let api_keys = keys.read()?;
        let default_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Config {
            model: self.model,
            served_model_names: self.served_model_name.unwrap_or_default(),
            dialect: self
                .dialect
                .map(|name| name.parse().map_err(|message| ConfigError(format!("dialect {message}, got {name:?}"))))
                .transpose()?,
            dtype: self.dtype.unwrap_or(Dtype::Auto),
            quantization: self.quantization.unwrap_or(QuantizationKind::None),
            max_model_len: self
                .max_model_len
                .map(|len| match len {
                    0 | 1 => Err(ConfigError(
                        "max_model_len must be at least 2: a prompt token and an answer token".to_owned(),
                    )),
                    len => at_most("max_model_len", len, MAX_POSITIONS),
                })
                .transpose()?,
            allow_long_max_model_len: self.allow_long_max_model_len.unwrap_or(false),
            numerics: self.numerics.unwrap_or(if device == DeviceKind::Cpu {
                NumericsMode::Strict
            } else {
                NumericsMode::Fast
            }),
            naive_min_tokens: bounded("naive_min_tokens", self.naive_min_tokens.unwrap_or(170), 1 << 24)?,
            host: self.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port,
            api_keys,
            keys,
            protect_metrics: self.protect_metrics.unwrap_or(false),
            cors_allow_origins: origins(self.cors_allow_origin)?,
            hosted_tools: self.hosted_tools.unwrap_or(HostedTools::Ignore),
            encrypted_content_key: self.encrypted_content_key.map(long_secret).transpose()?,
            limits,
            device,
            gpu_memory_utilization: match self.gpu_memory_utilization.unwrap_or(0.9) {
                share if share > 0.0 && share <= 1.0 => share,
                share => {
                    return Err(ConfigError(format!(
                        "gpu_memory_utilization is {share}, expected a share such as 0.9"
                    )));
                }
            },
            threads: bounded("threads", self.threads.unwrap_or(default_threads), 4096)?,
            kv_cache_bytes: match self.kv_cache_memory.as_deref() {
                None | Some("auto") => None,
                Some(size) => Some(parse_size("kv_cache_memory", size)?),
            },
            kv_cache_dtype: match self.kv_cache_dtype.unwrap_or(KvCacheDtype::Auto) {
                KvCacheDtype::Fp8 if device == DeviceKind::Cpu => {
                    return Err(ConfigError(
                        "kv_cache_dtype fp8 is computed with on a GPU only: see device".to_owned(),
                    ));
                }
                dtype => dtype,
            },
            block_size: match self.block_size.unwrap_or(16) {
                size @ 1..=1024 => size,
                size => return Err(ConfigError(format!("block_size is {size}, expected 1 to 1024"))),
            },
            prefix_caching: self.enable_prefix_caching.unwrap_or(true),
            log: self.log.unwrap_or(LogFormat::Pretty),
            log_level: log_level(self.log_level)?,
        })
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let limits = Limits {
            max_num_seqs: bounded("max_num_seqs", self.max_num_seqs.unwrap_or(64), 1 << 16)?,
            max_num_batched_tokens: bounded(
                "max_num_batched_tokens",
                self.max_num_batched_tokens.unwrap_or(512),
                1 << 20,
            )?,
            max_queued_requests: at_most("max_queued_requests", self.max_queued_requests.unwrap_or(1024), 1 << 20)?,
            priorities: self.scheduling_policy == Some(SchedulingPolicy::Priority),
            max_choices: bounded("max_choices", self.max_choices.unwrap_or(16), 1 << 16)?,
            max_body_bytes: bounded("max_body_bytes", self.max_body_bytes.unwrap_or(8 << 20), 1 << 30)?,
            response_store_bytes: match self.response_store_memory.as_deref().unwrap_or("64MiB") {
                "0" => 0,
                size => parse_size("response_store_memory", size)?,
            },
            request_timeout: seconds("request_timeout_seconds", self.request_timeout_seconds.unwrap_or(0))?,
            queue_timeout: seconds("queue_timeout_seconds", self.queue_timeout_seconds.unwrap_or(0))?,
            keep_alive: some_seconds("keep_alive_seconds", self.keep_alive_seconds.unwrap_or(15))?,
            max_connections: bounded("max_connections", self.max_connections.unwrap_or(4096), 1 << 20)?,
            header_timeout: some_seconds("header_timeout_seconds", self.header_timeout_seconds.unwrap_or(30))?,
            idle_timeout: some_seconds("idle_timeout_seconds", self.idle_timeout_seconds.unwrap_or(75))?,
            write_timeout: some_seconds("write_timeout_seconds", self.write_timeout_seconds.unwrap_or(60))?,
            drain_delay: match self.drain_delay_seconds {
                Some(given) => Some(seconds("drain_delay_seconds", given)?.unwrap_or_default()),
                None => None,
            },
            max_websockets: bounded("max_websockets", self.max_websockets.unwrap_or(256), 1 << 16)?,
            websocket_idle: some_seconds("websocket_idle_seconds", self.websocket_idle_seconds.unwrap_or(600))?,
            websocket_max: some_seconds("websocket_max_seconds", self.websocket_max_seconds.unwrap_or(3600))?,
            shutdown_grace: seconds("shutdown_grace_seconds", self.shutdown_grace_seconds.unwrap_or(30))?
                .unwrap_or_default(),
            stall: some_seconds("stall_seconds", self.stall_seconds.unwrap_or(120))?,
        };
        if limits.max_num_batched_tokens < limits.max_num_seqs {
            return Err(ConfigError(format!(
                "max_num_batched_tokens ({}) must be at least max_num_seqs ({}): every running sequence computes a token per step",
                limits.max_num_batched_tokens, limits.max_num_seqs
            )));
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests;
