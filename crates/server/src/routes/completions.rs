//! `POST /v1/completions`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_chat::{Detokenizer, Start, Tokenizer};
use moesaic_protocol::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, ErrorResponse, Prompt, Usage,
};
use moesaic_scheduler::TokenLogprobs;

use crate::answer_format::{AnswerRules, WantedFormat};
use crate::auth::ClientKey;
use crate::error::ApiError;
use crate::event_stream::{self, StreamedAnswer};
use crate::extract::ApiJson;
use crate::generation::{Delta, Generation, Submission, admit, tokenise};
use crate::request_id::RequestId;
use crate::routes::unix_now;
use crate::state::{AppState, Serving};
use crate::validate::{self, EndpointFields, ValidSampling};
use crate::{sse, token_text};

/// As OpenAI's.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Continues prompts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The continuations, or with stream: true a stream of pieces", content(
            (Completion = "application/json"),
            (Completion = "text/event-stream"),
        )),
        (status = "4XX", description = "The request is wrong or may not be served", body = ErrorResponse),
        (status = "5XX", description = "The server cannot serve it now", body = ErrorResponse),
    )
)]
pub async fn completions(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    Extension(RequestId(id)): Extension<RequestId>,
    ApiJson(request): ApiJson<CompletionRequest>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let serving = Arc::clone(state.serving()?);
    let model = serving.check_model(request.model.as_deref())?.to_owned();
    let sampling = validate_request(&request, &serving, &state)?;
    let rules = AnswerRules { format: WantedFormat::new(&request.format)?, ..AnswerRules::default() };
    rules.check(&sampling, &serving.markers)?;
    let num_prompts = num_prompts(&request.prompt);
    let num_choices = num_prompts * sampling.n as usize;
    if num_prompts == 0 || num_choices > state.config.limits.max_choices {
        let limit = state.config.limits.max_choices;
        return Err(ApiError::invalid("prompt", format!("prompts × n must be from 1 to {limit}, got {num_choices}")));
    }
    let admission = admit(&serving, num_choices)?;
    let echo = request.echo.unwrap_or(false);
    let echoes_text = matches!(request.prompt, Prompt::Text(_) | Prompt::Texts(_));
    let prompts = prompts(&state, &serving, request.prompt, &sampling, echo).await?;
    let num_prompt_tokens = prompts.iter().map(|prompt| prompt.token_ids.len()).sum();
    // Reported with every choice, twice where an echo has them too.
    validate::check_prompt_logprobs("prompt", num_prompt_tokens, 2 * sampling.n as usize, &sampling)?;
    let answer = Answer {
        id: format!("cmpl-{}", sampling.request_id.clone().unwrap_or(id)),
        created: unix_now(),
        model,
        echoes: prompts.iter().map(|prompt| prompt.echo.clone()).collect(),
        prompt_token_ids: prompts.iter().map(|prompt| prompt.token_ids.clone()).collect(),
        echoes_text,
        num_alternatives: request.logprobs,
        serving: Arc::clone(&serving),
        sampling,
    };
    let prompts = prompts.into_iter().map(|prompt| (prompt.token_ids, prompt.max_tokens)).collect();
    let constraint = rules.constraint(&state, &serving, &answer.sampling, Start::Content).await?;
    let submission = Submission { prompts, chat: None, constraint, sampling: &answer.sampling, client, arrived };
    let generation = Generation::submit(&state, &serving, admission, submission)?;
    if answer.sampling.stream {
        let streamed = Streamed { progress: answer.no_progress(), answer };
        return Ok(event_stream::respond(streamed, generation, &state));
    }
    Ok(Json(answer.whole(generation).await?).into_response())
}

fn validate_request(
    request: &CompletionRequest,
    serving: &Serving,
    state: &AppState,
) -> Result<ValidSampling, ApiError> {
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_null()) {
        return Err(ApiError::invalid("suffix", "is not supported"));
    }
    if let Some(field) = request.unsupported.first() {
        return Err(ApiError::invalid(field, "is not supported"));
    }
    let logprobs = validate::num_logprobs("logprobs", request.logprobs)?;
    let endpoint = EndpointFields {
        max_tokens_param: "max_tokens",
        // An echo of the prompt alone still has to be computed, so one token is made and dropped.
        max_tokens: request.max_tokens.map(|max| if request.echo == Some(true) { max.max(1) } else { max }),
        default_max_tokens: DEFAULT_MAX_TOKENS,
        logprobs,
    };
    let mut sampling = validate::sampling(&request.sampling, endpoint, serving, &state.config.limits)?;
    if request.best_of.is_some_and(|best_of| best_of == 0 || best_of > sampling.n) {
        return Err(ApiError::invalid("best_of", format!("must be from 1 to n ({}): there is no ranking", sampling.n)));
    }
    if request.echo == Some(true) {
        // An echoed prompt has log-probabilities like the text that follows it.
        sampling.params.prompt_logprobs = sampling.params.prompt_logprobs.max(logprobs);
        sampling.needs_prompt_logprobs_per_choice = logprobs.is_some();
        sampling.drops_output = request.max_tokens == Some(0);
    }
    Ok(sampling)
}

fn num_prompts(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(_) => 1,
        Prompt::Texts(texts) => texts.len(),
        Prompt::Tokens(tokens) => usize::from(!tokens.is_empty()),
        Prompt::TokenLists(lists) => lists.len(),
    }
}

/// A prompt ready to be submitted.
struct ReadyPrompt {
    token_ids: Vec<u32>,
    max_tokens: u32,
    /// Its text, when it is to be repeated.
    echo: Option<String>,
}

async fn prompts(
    state: &AppState,
    serving: &Arc<Serving>,
    prompt: Prompt,
    sampling: &ValidSampling,
    echo: bool,
) -> Result<Vec<ReadyPrompt>, ApiError> {
    let limit = sampling.truncate.is_none().then_some(serving.max_model_len);
    let encoded = match prompt {
        Prompt::Tokens(tokens) => vec![(tokens, None)],
        Prompt::TokenLists(lists) => lists.into_iter().map(|tokens| (tokens, None)).collect(),
        Prompt::Text(text) => encode(state, serving, vec![text], limit).await?,
        Prompt::Texts(texts) => encode(state, serving, texts, limit).await?,
    };
    let ready = |(mut token_ids, text): (Vec<u32>, Option<String>)| {
        validate::check_token_ids("prompt", &token_ids, serving.vocab_size)?;
        let num_tokens = token_ids.len();
        let max_tokens = validate::fit_prompt("prompt", &mut token_ids, sampling, serving.max_model_len)?;
        let is_whole = token_ids.len() == num_tokens;
        let decode =
            || serving.tokenizer.as_ref().map_or_else(String::new, |tokenizer| tokenizer.decode(&token_ids, true));
        let echo = echo.then(|| text.filter(|_| is_whole).unwrap_or_else(decode));
        Ok(ReadyPrompt { token_ids, max_tokens, echo })
    };
    encoded.into_iter().map(ready).collect()
}

async fn encode(
    state: &AppState,
    serving: &Arc<Serving>,
    texts: Vec<String>,
    max_tokens: Option<usize>,
) -> Result<Vec<(Vec<u32>, Option<String>)>, ApiError> {
    let num_bytes = texts.iter().map(String::len).sum();
    tokenise(state, serving, num_bytes, move |tokenizer| {
        let encode = |text: String| {
            validate::check_text_length("prompt", text.len(), tokenizer, max_tokens)?;
            let ids = tokenizer.encode_prompt(&text, None);
            ids.map(|ids| (ids, Some(text))).map_err(|error| ApiError::invalid("prompt", error.to_string()))
        };
        texts.into_iter().map(encode).collect()
    })
    .await
}

/// What all parts of an answer share.
struct Answer {
    id: String,
    created: u64,
    model: String,
    /// Per prompt, the text to repeat.
    echoes: Vec<Option<String>>,
    prompt_token_ids: Vec<Vec<u32>>,
    /// An echo repeats the text as it was sent, control tokens spelled in it included.
    echoes_text: bool,
    num_alternatives: Option<u32>,
    serving: Arc<Serving>,
    sampling: ValidSampling,
}

/// What must be known of a choice from one delta to the next.
#[derive(Debug, Default)]
struct Progress {
    /// Characters of the text so far, for the offsets of tokens.
    num_characters: u32,
    /// Joins torn characters, as the text itself does.
    detokenizer: Detokenizer,
    prompt_rows: Vec<TokenLogprobs>,
    begun: bool,
}

impl Answer {
    fn num_choices(&self) -> usize {
        self.echoes.len() * self.sampling.n as usize
    }

    fn no_progress(&self) -> Vec<Progress> {
        (0..self.num_choices()).map(|_| Progress::default()).collect()
    }

    fn prompt_of(&self, choice: usize) -> usize {
        choice / self.sampling.n as usize
    }

    /// What a delta adds to its choice. `None` while there is nothing to show.
    fn piece(&self, delta: Delta, progress: &mut Progress) -> Option<CompletionChoice> {
        let (prompt, text) = (self.prompt_of(delta.choice), delta.text());
        progress.prompt_rows.extend(delta.prompt_logprobs);
        let shows_tokens =
            self.num_alternatives.is_some() || self.sampling.return_token_ids || self.serving.tokenizer.is_none();
        let has_tokens_to_show = shows_tokens && !delta.tokens.is_empty();
        if text.is_empty() && delta.end.is_none() && !has_tokens_to_show {
            return None;
        }
        let opens = !std::mem::replace(&mut progress.begun, true);
        let echo = self.echoes[prompt].as_deref().filter(|_| opens).unwrap_or_default();
        let end = delta.end;
        let mut logprobs = self.num_alternatives.map(|_| CompletionLogprobs::default());
        if let Some(logprobs) = &mut logprobs {
            if opens && self.echoes[prompt].is_some() {
                self.add_prompt(prompt, progress, logprobs);
            }
            for token in &delta.tokens {
                if let Some(row) = &token.logprobs {
                    self.add_token(row, !self.sampling.decode.skip_special_tokens, progress, logprobs);
                }
            }
        }
        Some(CompletionChoice {
            index: delta.choice as u32,
            text: format!("{echo}{text}"),
            logprobs,
            finish_reason: end.as_ref().map(|end| end.reason),
            stop_reason: end.and_then(|end| end.stop_reason),
            token_ids: self.sampling.return_token_ids.then(|| delta.tokens.iter().map(|token| token.id).collect()),
            prompt_token_ids: (self.sampling.return_token_ids && opens).then(|| self.prompt_token_ids[prompt].clone()),
            prompt_logprobs: None,
        })
    }

    fn add_prompt(&self, prompt: usize, progress: &mut Progress, logprobs: &mut CompletionLogprobs) {
        let rows = std::mem::take(&mut progress.prompt_rows);
        let first = self.prompt_token_ids[prompt][0];
        let text = token_text::unambiguous(self.serving.tokenizer.as_deref(), first);
        logprobs.text_offset.push(self.offset(first, false, progress));
        logprobs.tokens.push(text);
        logprobs.token_logprobs.push(None);
        logprobs.top_logprobs.push(None);
        for row in &rows {
            self.add_token(row, self.echoes_text, progress, logprobs);
        }
        progress.prompt_rows = rows;
    }

    fn add_token(
        &self,
        row: &TokenLogprobs,
        shows_special: bool,
        progress: &mut Progress,
        logprobs: &mut CompletionLogprobs,
    ) {
        let tokenizer = self.serving.tokenizer.as_deref();
        let text = token_text::unambiguous(tokenizer, row.token.id);
        let mut top: BTreeMap<String, f32> = BTreeMap::new();
        for entry in row.top.iter().take(self.num_alternatives.unwrap_or(0) as usize) {
            top.insert(token_text::unambiguous(tokenizer, entry.id), entry.logprob);
        }
        if !top.is_empty() {
            top.insert(text.clone(), row.token.logprob);
        }
        logprobs.text_offset.push(self.offset(row.token.id, shows_special, progress));
        logprobs.tokens.push(text);
        logprobs.token_logprobs.push(Some(row.token.logprob));
        logprobs.top_logprobs.push(Some(top));
    }

    /// Where a token's text starts, in characters; moves on by its text.
    fn offset(&self, id: u32, shows_special: bool, progress: &mut Progress) -> u32 {
        let start = progress.num_characters;
        let is_shown = |tokenizer: &&Tokenizer| shows_special || !tokenizer.is_special(id);
        if let Some(tokenizer) = self.serving.tokenizer.as_deref().filter(is_shown) {
            let mut text = String::new();
            progress.detokenizer.push(tokenizer.token_bytes(id), &mut text);
            progress.num_characters += text.chars().count() as u32;
        }
        start
    }

    fn completion(&self, choices: Vec<CompletionChoice>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: None,
            system_fingerprint: self.serving.fingerprint.clone(),
        }
    }

    /// Folds the pieces into one continuation per choice.
    async fn whole(&self, mut generation: Generation) -> Result<Completion, ApiError> {
        let mut progress = self.no_progress();
        let mut choices: Vec<Option<CompletionChoice>> = (0..self.num_choices()).map(|_| None).collect();
        while let Some(delta) = generation.next().await? {
            let index = delta.choice;
            let Some(piece) = self.piece(delta, &mut progress[index]) else { continue };
            match &mut choices[index] {
                None => choices[index] = Some(piece),
                Some(choice) => append(choice, piece),
            }
        }
        let mut choices: Vec<CompletionChoice> =
            choices.into_iter().map(|choice| choice.expect("every choice ends with a piece")).collect();
        if let Some(num_top) = self.sampling.wants_prompt_logprobs {
            for (index, choice) in choices.iter_mut().enumerate() {
                let first_of_prompt = &progress[self.prompt_of(index) * self.sampling.n as usize];
                let tokenizer = self.serving.tokenizer.as_deref();
                choice.prompt_logprobs =
                    Some(token_text::prompt_logprobs(tokenizer, &first_of_prompt.prompt_rows, num_top as usize));
            }
        }
        Ok(Completion { usage: Some(generation.usage()), ..self.completion(choices) })
    }
}

/// A streamed answer and what must be known of each choice from one delta to the next.
struct Streamed {
    answer: Answer,
    progress: Vec<Progress>,
}

impl StreamedAnswer for Streamed {
    fn sampling(&self) -> &ValidSampling {
        &self.answer.sampling
    }

    fn opening(&self, _usage: Usage) -> Vec<Event> {
        Vec::new()
    }

    fn chunks(&mut self, delta: Delta, usage: Option<Usage>) -> Vec<Event> {
        let progress = &mut self.progress[delta.choice];
        let piece = self.answer.piece(delta, progress);
        let event = |piece| sse::json(&Completion { usage, ..self.answer.completion(vec![piece]) });
        piece.into_iter().map(event).collect()
    }

    fn closing(&mut self, usage: Usage) -> Vec<Event> {
        let chunk = Completion { usage: Some(usage), ..self.answer.completion(Vec::new()) };
        let counts = self.answer.sampling.include_usage.then(|| sse::json(&chunk));
        counts.into_iter().chain([sse::done()]).collect()
    }
}

fn append(choice: &mut CompletionChoice, piece: CompletionChoice) {
    choice.text.push_str(&piece.text);
    (choice.finish_reason, choice.stop_reason) = (piece.finish_reason, piece.stop_reason);
    if let (Some(all), Some(new)) = (&mut choice.logprobs, piece.logprobs) {
        all.tokens.extend(new.tokens);
        all.token_logprobs.extend(new.token_logprobs);
        all.top_logprobs.extend(new.top_logprobs);
        all.text_offset.extend(new.text_offset);
    }
    if let (Some(all), Some(new)) = (&mut choice.token_ids, piece.token_ids) {
        all.extend(new);
    }
}
