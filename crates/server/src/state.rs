//! What all routes share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use moesaic_chat::{Dialect, GrammarHost, Markers, PromptRenderer, Tokenizer};
use moesaic_engine::EngineHandle;
use moesaic_protocol::TokenizerInfo;
use tokio::sync::{Semaphore, watch};

use crate::auth::ApiKeys;
use crate::config::Config;
use crate::error::ApiError;
use crate::heavy::Lanes;
use crate::metrics::Metrics;
use crate::response_store::ResponseStore;
use crate::sealed::Sealer;

/// Grammars compiled at the same time.
const NUM_COMPILERS: usize = 4;

/// Shared by all requests; cheap to clone.
pub type AppState = Arc<State>;

/// The server as a whole.
#[derive(Debug)]
pub struct State {
    /// Checked settings.
    pub config: Config,
    /// Accepted keys, which may change.
    api_keys: RwLock<Arc<ApiKeys>>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Responses that clients may come back to.
    pub responses: ResponseStore,
    /// For what clients carry for the server.
    pub sealer: Arc<Sealer>,
    serving: OnceLock<Arc<Serving>>,
    leaving: AtomicBool,
    draining: watch::Sender<bool>,
    /// Lanes for work that takes long.
    pub lanes: Lanes,
    /// Places for WebSockets; each holds one until it is closed.
    pub websockets: Arc<Semaphore>,
    /// Turns at compiling grammars: apart, so that slow ones hold up nothing else.
    pub compilers: Arc<Semaphore>,
}

/// A loaded model.
#[derive(Debug)]
pub struct Serving {
    /// Way to the engine.
    pub engine: EngineHandle,
    /// Absent for a checkpoint without one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Absent for a checkpoint without a chat template.
    pub renderer: Option<Arc<PromptRenderer>>,
    /// How the model writes thoughts and calls.
    pub dialect: Dialect,
    /// Its tokens of control.
    pub markers: Arc<Markers>,
    /// Compiles grammars in processes of its own; absent without a tokenizer.
    pub grammars: Option<Arc<GrammarHost>>,
    /// Names that requests may use; the first is reported.
    pub model_names: Vec<String>,
    /// Name of the checkpoint.
    pub root: String,
    /// Longest sequence.
    pub max_model_len: usize,
    /// Embedding rows.
    pub vocab_size: usize,
    /// The model's own end-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
    /// Sampling settings where a request has none.
    pub defaults: SamplingDefaults,
    /// Changes whenever outputs may change.
    pub fingerprint: String,
    /// Unix time of loading.
    pub created: u64,
    /// What is told of the tokenizer, where there is one.
    pub tokenizer_info: Option<TokenizerInfo>,
}

/// From the checkpoint's generation_config.json.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingDefaults {
    /// Temperature.
    pub temperature: f32,
    /// Nucleus.
    pub top_p: f32,
    /// 0 for all.
    pub top_k: u32,
    /// 1 for none.
    pub repetition_penalty: f32,
    /// Of a chat's answer; as many as fit without it.
    pub max_new_tokens: Option<u32>,
}

impl Default for SamplingDefaults {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, repetition_penalty: 1.0, max_new_tokens: None }
    }
}

impl State {
    /// A server that has not loaded its model yet.
    pub fn new(config: Config) -> Self {
        Self {
            api_keys: RwLock::new(Arc::new(ApiKeys::new(&config.api_keys))),
            metrics: Arc::new(Metrics::new()),
            responses: ResponseStore::new(config.limits.response_store_bytes),
            websockets: Arc::new(Semaphore::new(config.limits.max_websockets)),
            sealer: Arc::new(Sealer::new(config.encrypted_content_key.as_deref())),
            config,
            serving: OnceLock::new(),
            leaving: AtomicBool::new(false),
            draining: watch::Sender::new(false),
            lanes: Lanes::start(),
            compilers: Arc::new(Semaphore::new(NUM_COMPILERS)),
        }
    }

    /// The keys that are accepted now.
    pub fn api_keys(&self) -> Arc<ApiKeys> {
        Arc::clone(&self.api_keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Accepts these keys from now on, and no others.
    pub fn set_api_keys(&self, keys: &[String]) {
        *self.api_keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ApiKeys::new(keys));
    }

    /// Begins to serve.
    pub fn set_serving(&self, serving: Serving) {
        assert!(self.serving.set(Arc::new(serving)).is_ok(), "a server loads one model, once");
    }

    /// The loaded model, however the server stands.
    pub fn loaded(&self) -> Option<&Arc<Serving>> {
        self.serving.get()
    }

    /// The model, for a new request.
    ///
    /// # Errors
    /// While loading and while shutting down.
    pub fn serving(&self) -> Result<&Arc<Serving>, ApiError> {
        if *self.draining.borrow() {
            return Err(ApiError::draining());
        }
        self.serving.get().ok_or_else(ApiError::loading)
    }

    /// Whether clients and balancers are to go elsewhere, though requests may still be taken.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Tells clients and balancers to go elsewhere.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Takes no further requests.
    pub fn drain(&self) {
        self.leave();
        self.draining.send_replace(true);
    }

    /// Waits until no further requests are taken.
    pub async fn drained(&self) {
        // Its sender lives as long as the server does.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// Waits until every WebSocket is closed. Only while none is opened any more.
    pub async fn websockets_closed(&self) {
        let all = self.config.limits.max_websockets as u32;
        drop(self.websockets.acquire_many(all).await);
    }
}

impl Serving {
    /// The name to report; refuses a model that is not served.
    ///
    /// # Errors
    /// 404 for an unknown name.
    pub fn check_model(&self, model: Option<&str>) -> Result<&str, ApiError> {
        match model {
            None => Ok(&self.model_names[0]),
            Some(name) => {
                let known = self.model_names.iter().find(|known| *known == name);
                known.map(String::as_str).ok_or_else(|| ApiError::model_not_found(name))
            }
        }
    }
}
