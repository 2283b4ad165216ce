//! A submitted request: engine outputs become text, choice by choice.
//!
//! The one path behind streamed and whole answers, of chat and of completions.

use std::sync::Arc;
use std::time::Instant;

use moesaic_chat::{ChatFormat, ChoiceDecoder, OutputEvent, Tokenizer};
use moesaic_engine::{Admission, EngineChoice, EngineOutput, EngineRequest, RequestStream, StreamEnd, TokenConstraint};
use moesaic_protocol::{CompletionTokensDetails, FinishReason, PromptTokensDetails, SamplingFields, Usage};
use moesaic_scheduler::{FinishReason as EngineFinish, SampledToken, TokenLogprobs};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::{Instant as TokioInstant, timeout_at};

use crate::auth::ClientKey;
use crate::error::ApiError;
use crate::metrics::RequestTimer;
use crate::state::{AppState, Serving};
use crate::validate::sampling::ValidSampling;

/// What is submitted.
pub struct Submission<'a> {
    /// Token ids of each prompt, with the number of tokens that its answers may have.
    pub prompts: Vec<(Vec<u32>, u32)>,
    /// What a chat's answers are read with.
    pub chat: Option<ChatFormat>,
    /// What every choice may say, if not everything.
    pub constraint: Option<Box<dyn TokenConstraint>>,
    /// Settings of all choices.
    pub sampling: &'a ValidSampling,
    /// Whose request it is.
    pub client: ClientKey,
    /// When it arrived.
    pub arrived: Instant,
}

/// What is new in one choice.
#[derive(Debug, Default)]
pub struct Delta {
    /// Which choice: prompt · n + choice of the prompt.
    pub choice: usize,
    /// Parts of the answer that are certain now.
    pub events: Vec<OutputEvent>,
    /// Tokens, up to the one that completed a stop string.
    pub tokens: Vec<SampledToken>,
    /// Log-probabilities of further prompt tokens, from the second on.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Present in a choice's last delta.
    pub end: Option<ChoiceEnd>,
}

/// How a choice ended.
#[derive(Debug, Clone)]
pub struct ChoiceEnd {
    /// For `finish_reason`.
    pub reason: FinishReason,
    /// The stop string or stop token id, if it was one.
    pub stop_reason: Option<Value>,
}

impl Delta {
    /// The text of a plain completion.
    pub fn text(&self) -> String {
        let content = |event: &OutputEvent| match event {
            OutputEvent::Content(text) => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(content).collect()
    }
}

/// A request in flight. Dropping it aborts it.
#[derive(Debug)]
pub struct Generation {
    stream: RequestStream,
    decoders: Vec<ChoiceDecoder>,
    eos_token_ids: Vec<u32>,
    usage: Usage,
    n: usize,
    drops_output: bool,
    deadline: Option<TokioInstant>,
    first_token_deadline: Option<TokioInstant>,
    state: AppState,
    timer: RequestTimer,
}

impl Generation {
    /// Hands the request to the engine.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub fn submit(
        state: &AppState,
        serving: &Serving,
        admission: Admission,
        submission: Submission,
    ) -> Result<Self, ApiError> {
        let Submission { prompts, chat, constraint, sampling, client, arrived } = submission;
        let num_prompt_tokens: usize = prompts.iter().map(|(prompt, _)| prompt.len()).sum();
        let choices: Vec<EngineChoice> = prompts
            .iter()
            .enumerate()
            .flat_map(|(prompt, (_, max_tokens))| {
                (0..sampling.n).map(move |choice| {
                    let mut params = sampling.params.clone();
                    (params.choice, params.max_tokens) = (choice, *max_tokens);
                    if !sampling.is_seeded {
                        params.seed = params.seed.wrapping_add(prompt as u64);
                    }
                    if choice > 0 && !sampling.needs_prompt_logprobs_per_choice {
                        params.prompt_logprobs = None;
                    }
                    EngineChoice { prompt, sampling: params }
                })
            })
            .collect();
        let decoder =
            |_: &EngineChoice| ChoiceDecoder::new(serving.tokenizer.clone(), sampling.decode.clone(), chat.as_ref());
        let decoders: Vec<ChoiceDecoder> = choices.iter().map(decoder).collect();
        let timer = RequestTimer::new(Arc::clone(&state.metrics), arrived, num_prompt_tokens, decoders.len());
        let request = EngineRequest {
            prompts: prompts.into_iter().map(|(prompt, _)| prompt).collect(),
            choices,
            priority: sampling.priority,
            client: number(client),
            cache_salt: cache_salt(client, sampling.cache_salt.as_deref()),
            constraint,
        };
        let limits = &state.config.limits;
        let after = |limit: Option<std::time::Duration>| limit.map(|limit| TokioInstant::from_std(arrived + limit));
        Ok(Self {
            stream: serving.engine.submit(admission, request)?,
            decoders,
            eos_token_ids: serving.eos_token_ids.clone(),
            usage: Usage { prompt_tokens: num_prompt_tokens as u32, ..Usage::default() },
            n: sampling.n as usize,
            drops_output: sampling.drops_output,
            deadline: after(limits.request_timeout),
            first_token_deadline: after(limits.queue_timeout),
            state: Arc::clone(state),
            timer,
        })
    }

    /// What is new; `None` after every choice has ended.
    ///
    /// # Errors
    /// When the engine failed, the server stops or a time limit has passed. Nothing follows.
    pub async fn next(&mut self) -> Result<Option<Delta>, ApiError> {
        let Some(output) = self.next_output().await? else {
            self.timer.finish("stop");
            return Ok(None);
        };
        match &output.end {
            Some(StreamEnd::Shutdown) => Err(ApiError::draining()),
            Some(StreamEnd::Unread) => {
                self.timer.finish("abort");
                Err(ApiError::unread())
            }
            Some(StreamEnd::Failed(cause) | StreamEnd::Finished(EngineFinish::Failed(cause))) => {
                self.timer.finish("error");
                Err(self.timer.in_its_name(|| cause.into()))
            }
            _ => Ok(Some(self.decode(output))),
        }
    }

    /// Token counts so far.
    pub fn usage(&self) -> Usage {
        Usage { total_tokens: self.usage.prompt_tokens + self.usage.completion_tokens, ..self.usage }
    }

    async fn next_output(&mut self) -> Result<Option<EngineOutput>, ApiError> {
        let deadlines = [self.deadline, self.first_token_deadline];
        let Some(deadline) = deadlines.into_iter().flatten().min() else { return Ok(self.stream.next().await) };
        if let Ok(output) = timeout_at(deadline, self.stream.next()).await {
            self.first_token_deadline = None;
            return Ok(output);
        }
        let limits = &self.state.config.limits;
        let seconds = |limit: Option<std::time::Duration>| limit.unwrap_or_default().as_secs();
        Err(if self.first_token_deadline == Some(deadline) {
            ApiError::queued_too_long(seconds(limits.queue_timeout))
        } else {
            ApiError::timed_out(seconds(limits.request_timeout))
        })
    }

    fn decode(&mut self, output: EngineOutput) -> Delta {
        let choice = output.choice as usize;
        let mut delta = Delta { choice, prompt_logprobs: output.prompt_logprobs, ..Delta::default() };
        let stopped_by = match &output.end {
            Some(StreamEnd::Finished(EngineFinish::Stop { token_id })) => Some(*token_id),
            _ => None,
        };
        let num_tokens = output.tokens.len();
        let decoder = &mut self.decoders[choice];
        let mut stop = None;
        for (index, token) in output.tokens.into_iter().enumerate() {
            let is_end = stopped_by.is_some() && index + 1 == num_tokens;
            stop = decoder.push(token.id, is_end, &mut delta.events);
            delta.tokens.push(token);
            if stop.is_some() {
                break;
            }
        }
        if stop.is_none() && output.end.is_some() {
            stop = decoder.finish(&mut delta.events);
        }
        delta.end = match (stop, &output.end) {
            (Some(stop), _) => {
                self.stream.abort_choice(output.choice);
                Some(ChoiceEnd { reason: FinishReason::Stop, stop_reason: Some(stop.stop.into()) })
            }
            (None, Some(_)) if stopped_by.is_some() => {
                let by_request = stopped_by.filter(|id| !self.eos_token_ids.contains(id));
                Some(ChoiceEnd { reason: FinishReason::Stop, stop_reason: by_request.map(Value::from) })
            }
            (None, Some(_)) => Some(ChoiceEnd { reason: FinishReason::Length, stop_reason: None }),
            (None, None) => None,
        };
        if self.drops_output {
            (delta.events, delta.tokens) = (Vec::new(), Vec::new());
            delta.end = delta.end.map(|_| ChoiceEnd { reason: FinishReason::Length, stop_reason: None });
        }
        self.timer.tokens(choice, delta.tokens.len(), output.first_scheduled);
        if delta.end.as_ref().is_some_and(|end| end.reason == FinishReason::Length) {
            self.timer.finish("length");
        }
        self.count(&delta, output.num_cached_tokens);
        delta
    }

    fn count(&mut self, delta: &Delta, num_cached_tokens: usize) {
        self.usage.completion_tokens += delta.tokens.len() as u32;
        let reasoning_tokens = self.decoders.iter().map(ChoiceDecoder::num_reasoning_tokens).sum();
        self.usage.completion_tokens_details = CompletionTokensDetails { reasoning_tokens };
        // Further choices of a prompt find the first one's blocks; that is no gain of the client's.
        if delta.choice.is_multiple_of(self.n) && delta.end.is_some() {
            let PromptTokensDetails { cached_tokens } = &mut self.usage.prompt_tokens_details;
            *cached_tokens += num_cached_tokens as u32;
            self.timer.cached(num_cached_tokens);
        }
    }
}

/// A client, for the engine to tell from others.
fn number(client: ClientKey) -> u64 {
    client.0.map_or(0, |hash| u64::from_le_bytes(hash[..8].try_into().expect("eight bytes")))
}

/// Requests with different keys or salts never share cached blocks, so that nobody can measure
/// what others have asked.
fn cache_salt(client: ClientKey, salt: Option<&str>) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(client.0.unwrap_or_default());
    hasher.update(salt.unwrap_or_default());
    let digest = hasher.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("eight bytes"))
}

/// Reserves places for a request's choices, `n` for each prompt.
///
/// # Errors
/// 429 when there are none now, 400 when there never are so many.
pub fn admit(serving: &Serving, client: ClientKey, num_prompts: usize, n: usize) -> Result<Admission, ApiError> {
    let num_places = serving.engine.num_places();
    if num_prompts * n > num_places {
        return Err(ApiError::too_many_choices(if num_prompts > 1 { "prompt" } else { "n" }, num_places));
    }
    Ok(serving.engine.admit(number(client), num_prompts * n)?)
}

/// Tokenises about so many bytes off the async threads.
///
/// # Errors
/// When there is no tokenizer or it refuses the text.
pub async fn tokenise<T: Send + 'static>(
    state: &AppState,
    serving: &Serving,
    num_bytes: usize,
    work: impl FnOnce(&Tokenizer) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let tokenizer = serving.tokenizer.clone().ok_or_else(ApiError::no_tokenizer)?;
    state.lanes.work(num_bytes, move || work(&tokenizer)).await?
}

/// The tokens of the texts that an answer may not hold, each at the beginning of a text and after a space, as vLLM has it.
///
/// # Errors
/// When a text cannot become tokens.
pub async fn bad_words(
    state: &AppState,
    serving: &Serving,
    fields: &SamplingFields,
) -> Result<Arc<[Vec<u32>]>, ApiError> {
    let Some(words) = fields.bad_words.clone().filter(|words| !words.is_empty()) else { return Ok(Arc::new([])) };
    let num_bytes = 2 * words.iter().map(String::len).sum::<usize>();
    tokenise(state, serving, num_bytes, move |tokenizer| {
        let texts = words.iter().flat_map(|word| [word.trim_start().to_owned(), format!(" {}", word.trim_start())]);
        let tokens = texts.map(|text| tokenizer.encode(&text)).filter(|ids| !ids.as_ref().is_ok_and(Vec::is_empty));
        let tokens = tokens.collect::<Result<Vec<_>, _>>();
        Ok(tokens.map_err(|error| ApiError::invalid("bad_words", error.to_string()))?.into())
    })
    .await
}
