//! From messages to the prompt's text.

use moesaic_protocol::{ChatMessage, Content};
use serde_json::{Map, Value};
use thiserror::Error;
use time::OffsetDateTime;

use crate::template_shape::TemplateShape;
use crate::{ChatTemplate, Dialect, TemplateError, Tokenizer};

/// Template variables that a request may not set: the server sets them.
const RESERVED: &[&str] =
    &["messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"];

/// Why messages cannot be rendered. All are the request's fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PromptError {
    /// The template said no, or failed on what it was given.
    #[error("{0}")]
    Template(TemplateError),
    /// A part of a message is no text.
    #[error("only text parts are supported, got a part of type {kind:?}")]
    UnsupportedPart {
        /// Index of the message.
        message: usize,
        /// Index of the part.
        part: usize,
        /// Its type.
        kind: String,
    },
    /// `chat_template_kwargs` sets what the server sets.
    #[error("chat_template_kwargs must not set {0:?}")]
    ReservedVariable(String),
    /// The last message's text is not to be found in the rendered prompt.
    #[error("the chat template does not keep the last message's text as it is, so it cannot be continued")]
    CannotContinue,
}

/// How a conversation is rendered.
#[derive(Debug, Clone, Default)]
pub struct PromptOptions {
    /// End with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// End inside the last message instead.
    pub continue_final_message: bool,
    /// Further variables.
    pub variables: Map<String, Value>,
    /// Turn a hybrid model's thinking on or off.
    pub thinking: Option<bool>,
}

/// Renders conversations with a checkpoint's chat template.
#[derive(Debug)]
pub struct PromptRenderer {
    default: ShapedTemplate,
    /// The template for requests with tools, where the checkpoint has one.
    tool_use: Option<ShapedTemplate>,
    bos_token: String,
    eos_token: String,
    dialect: Dialect,
}

/// A template and what it takes.
#[derive(Debug)]
struct ShapedTemplate {
    template: ChatTemplate,
    shape: TemplateShape,
}

impl ShapedTemplate {
    fn new(template: ChatTemplate, tokenizer: &Tokenizer) -> Self {
        let [bos, eos] = [tokenizer.bos_token(), tokenizer.eos_token()].map(Option::unwrap_or_default);
        let shape = TemplateShape::find(&template, bos, eos);
        Self { template, shape }
    }
}

impl PromptRenderer {
    /// Compiles the template and tries what it takes.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        Ok(Self::of(ChatTemplate::compile(source)?, source, tokenizer))
    }

    /// Like [`new`](Self::new) with `strftime_now` reading `now`, for reproducible output.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_clock(source: &str, tokenizer: &Tokenizer, now: fn() -> OffsetDateTime) -> Result<Self, TemplateError> {
        Ok(Self::of(ChatTemplate::compile_with_clock(source, now)?, source, tokenizer))
    }

    fn of(template: ChatTemplate, source: &str, tokenizer: &Tokenizer) -> Self {
        Self {
            default: ShapedTemplate::new(template, tokenizer),
            tool_use: None,
            bos_token: tokenizer.bos_token().unwrap_or_default().to_owned(),
            eos_token: tokenizer.eos_token().unwrap_or_default().to_owned(),
            dialect: Dialect::detect(Some(source)),
        }
    }

    /// Renders requests that offer tools with a template of their own.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn with_tool_use(mut self, source: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        self.tool_use = Some(ShapedTemplate::new(ChatTemplate::compile(source)?, tokenizer));
        self.dialect = Dialect::detect(Some(source));
        Ok(self)
    }

    /// What the template writes thoughts and calls in.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the template was found to take, in a few words for the log.
    pub fn summary(&self) -> String {
        let default = self.default.shape.summary();
        match &self.tool_use {
            Some(tool_use) => format!("{default}; with tools another: {}", tool_use.shape.summary()),
            None => default,
        }
    }

    /// The prompt's text. `tools`: as the client sent them.
    ///
    /// # Errors
    /// When the messages are not what the template takes.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        tools: &[Value],
        options: &PromptOptions,
    ) -> Result<String, PromptError> {
        // `transformers` sets these two always.
        let mut context = Map::from_iter([("tools".to_owned(), Value::Null), ("documents".to_owned(), Value::Null)]);
        if let Some(key) = options.variables.keys().find(|key| RESERVED.contains(&key.as_str())) {
            return Err(PromptError::ReservedVariable(key.clone()));
        }
        if let Some(thinking) = options.thinking {
            // Hybrid templates read one name or the other.
            context.insert("thinking".to_owned(), thinking.into());
            context.insert("enable_thinking".to_owned(), thinking.into());
        }
        context.extend(options.variables.clone());
        let ShapedTemplate { template, shape } =
            self.tool_use.as_ref().filter(|_| !tools.is_empty()).unwrap_or(&self.default);
        context.insert("messages".to_owned(), shape.messages(messages)?.into());
        if !tools.is_empty() {
            context.insert("tools".to_owned(), tools.into());
        }
        context.insert("add_generation_prompt".to_owned(), options.add_generation_prompt.into());
        context.insert("bos_token".to_owned(), self.bos_token.clone().into());
        context.insert("eos_token".to_owned(), self.eos_token.clone().into());
        let mut prompt = template.render(context.into()).map_err(PromptError::Template)?;
        if options.continue_final_message {
            let last = messages.last().and_then(|message| message.content.as_ref()).map(last_text);
            let last =
                last.as_deref().map(str::trim).filter(|text| !text.is_empty()).ok_or(PromptError::CannotContinue)?;
            let start = prompt.rfind(last).ok_or(PromptError::CannotContinue)?;
            prompt.truncate(start + last.len());
        }
        Ok(prompt)
    }
}

/// What a message's text ends with.
fn last_text(content: &Content) -> String {
    match content {
        Content::Parts(parts) => parts.last().and_then(|part| part.text.clone()).unwrap_or_default(),
        Content::Text(text) => text.clone(),
    }
}
