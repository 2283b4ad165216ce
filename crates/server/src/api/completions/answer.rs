//! The answer to a completion request, whole or as a stream of pieces.

use std::collections::BTreeMap;
use std::sync::Arc;

use moesaic_chat::{Detokenizer, Tokenizer};
use moesaic_protocol::{Completion, CompletionChoice, CompletionLogprobs, Usage};
use moesaic_scheduler::TokenLogprobs;

use crate::error::ApiError;
use crate::event_stream::StreamedAnswer;
use crate::generation::{Delta, Generation};
use crate::sse::Event;
use crate::state::Serving;
use crate::validate::response::ResponseSettings;
use crate::validate::sampling::ValidSampling;
use crate::{sse, token_text};

/// What all parts of an answer share.
pub struct CompletionAnswer {
    /// The response's id.
    pub id: String,
    /// Unix time.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Per prompt, the text to repeat.
    pub echoes: Vec<Option<String>>,
    /// Tokens of each prompt.
    pub prompt_token_ids: Vec<Vec<u32>>,
    /// An echo repeats the text as it was sent, control tokens spelled in it included.
    pub echoes_text: bool,
    /// An echo's first token is one of the text, not one that was put before it.
    pub echoes_first: bool,
    /// Alternatives reported for each token, where asked for.
    pub num_alternatives: Option<u32>,
    /// The model.
    pub serving: Arc<Serving>,
    /// What is generated.
    pub sampling: ValidSampling,
    /// How it is reported.
    pub settings: ResponseSettings,
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

impl CompletionAnswer {
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
            self.num_alternatives.is_some() || self.settings.return_token_ids || self.serving.tokenizer.is_none();
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
            token_ids: self.settings.return_token_ids.then(|| delta.tokens.iter().map(|token| token.id).collect()),
            prompt_token_ids: (self.settings.return_token_ids && opens).then(|| self.prompt_token_ids[prompt].clone()),
            prompt_logprobs: None,
        })
    }

    fn add_prompt(&self, prompt: usize, progress: &mut Progress, logprobs: &mut CompletionLogprobs) {
        let rows = std::mem::take(&mut progress.prompt_rows);
        let first = self.prompt_token_ids[prompt][0];
        let text = token_text::unambiguous(self.serving.tokenizer.as_deref(), first);
        logprobs.text_offset.push(self.offset(first, self.echoes_first, progress));
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
    ///
    /// # Errors
    /// When the generation fails.
    pub async fn whole(&self, mut generation: Generation) -> Result<Completion, ApiError> {
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
        if let Some(num_top) = self.settings.prompt_logprobs {
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
pub struct Streamed {
    answer: CompletionAnswer,
    progress: Vec<Progress>,
}

impl Streamed {
    /// An answer of which nothing was sent yet.
    pub fn new(answer: CompletionAnswer) -> Self {
        Self { progress: answer.no_progress(), answer }
    }
}

impl StreamedAnswer for Streamed {
    fn settings(&self) -> &ResponseSettings {
        &self.answer.settings
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
        let counts = self.answer.settings.include_usage.then(|| sse::json(&chunk));
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
