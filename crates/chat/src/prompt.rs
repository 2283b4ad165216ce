//! From messages to the prompt's text.

use moesaic_protocol::{ChatMessage, Content, Role, ToolCall};
use serde_json::{Map, Value, json};
use thiserror::Error;

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
    template: ChatTemplate,
    bos_token: String,
    eos_token: String,
    /// Whether the template wants call arguments as an object; otherwise as the JSON text.
    /// A text through `tojson` would be quoted twice, an object cannot be concatenated.
    parses_arguments: bool,
    knows_developer: bool,
    dialect: Dialect,
}

impl PromptRenderer {
    /// Compiles the template.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        Ok(Self {
            template: ChatTemplate::compile(source)?,
            bos_token: tokenizer.bos_token().unwrap_or_default().to_owned(),
            eos_token: tokenizer.eos_token().unwrap_or_default().to_owned(),
            parses_arguments: takes_argument_objects(source),
            knows_developer: source.contains("developer"),
            dialect: Dialect::detect(Some(source)),
        })
    }

    /// What the template writes thoughts and calls in.
    pub fn dialect(&self) -> Dialect {
        self.dialect
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
        let mut context = Map::new();
        if let Some(key) = options.variables.keys().find(|key| RESERVED.contains(&key.as_str())) {
            return Err(PromptError::ReservedVariable(key.clone()));
        }
        if let Some(thinking) = options.thinking {
            // Hybrid templates read one name or the other.
            context.insert("thinking".to_owned(), thinking.into());
            context.insert("enable_thinking".to_owned(), thinking.into());
        }
        context.extend(options.variables.clone());
        let rendered: Result<Vec<Value>, PromptError> =
            messages.iter().enumerate().map(|(index, message)| self.message(index, message)).collect();
        context.insert("messages".to_owned(), rendered?.into());
        if !tools.is_empty() {
            context.insert("tools".to_owned(), tools.into());
        }
        context.insert("add_generation_prompt".to_owned(), options.add_generation_prompt.into());
        context.insert("bos_token".to_owned(), self.bos_token.clone().into());
        context.insert("eos_token".to_owned(), self.eos_token.clone().into());
        let mut prompt = self.template.render(context.into()).map_err(PromptError::Template)?;
        if options.continue_final_message {
            let last = messages.last().and_then(|message| message.content.as_ref()).map(plain_text);
            let last =
                last.as_deref().map(str::trim).filter(|text| !text.is_empty()).ok_or(PromptError::CannotContinue)?;
            let start = prompt.rfind(last).ok_or(PromptError::CannotContinue)?;
            prompt.truncate(start + last.len());
        }
        Ok(prompt)
    }

    /// A message as templates know it.
    fn message(&self, index: usize, message: &ChatMessage) -> Result<Value, PromptError> {
        if let Some(Content::Parts(parts)) = &message.content
            && let Some((part, other)) = parts.iter().enumerate().find(|(_, part)| part.kind != "text")
        {
            return Err(PromptError::UnsupportedPart { message: index, part, kind: other.kind.clone() });
        }
        let role = match message.role {
            Role::Developer if !self.knows_developer => Role::System,
            Role::Function => Role::Tool,
            role => role,
        };
        let mut value = json!({"role": role, "content": message.content.as_ref().map(plain_text)});
        let mut set = |key: &str, field: Option<Value>| {
            if let Some(field) = field {
                value[key] = field;
            }
        };
        set("name", message.name.clone().map(Value::from));
        set("tool_call_id", message.tool_call_id.clone().map(Value::from));
        let reasoning = message.reasoning_content.as_ref().or(message.reasoning.as_ref());
        set("reasoning_content", reasoning.cloned().map(Value::from));
        let legacy = message.function_call.iter().map(|function| ToolCall {
            id: None,
            kind: "function".to_owned(),
            function: function.clone(),
        });
        let calls: Vec<ToolCall> = message.tool_calls.iter().flatten().cloned().chain(legacy).collect();
        if message.tool_calls.is_some() || !calls.is_empty() {
            let calls = calls.iter().map(|call| {
                let arguments = match serde_json::from_str(&call.function.arguments) {
                    Ok(parsed) if self.parses_arguments => parsed,
                    _ => Value::from(call.function.arguments.clone()),
                };
                let function = json!({"name": call.function.name, "arguments": arguments});
                json!({"id": call.id, "type": call.kind, "function": function})
            });
            set("tool_calls", Some(calls.collect()));
        }
        Ok(value)
    }
}

/// The text of a message's content; parts are joined by line breaks.
fn plain_text(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            parts.iter().map(|part| part.text.as_deref().unwrap_or_default()).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Whether the template pipes `arguments` to `tojson` or iterates over its items.
fn takes_argument_objects(source: &str) -> bool {
    source.match_indices("arguments").any(|(start, word)| {
        let rest = source[start + word.len()..].trim_start_matches(['\'', '"', ']', ')', ' ']);
        let filter = rest.strip_prefix('|').map(str::trim_start);
        filter.is_some_and(|filter| filter.starts_with("tojson") || filter.starts_with("items"))
            || rest.starts_with(".items")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_say_how_they_take_arguments() {
        for (source, objects) in [
            ("{{ tool['function']['arguments'] | tojson }}", true),
            ("{{ tool.function.arguments|tojson }}", true),
            ("{%- for k, v in tool_call.arguments|items %}", true),
            ("{% for k, v in call['arguments'].items() %}", true),
            ("{{ '```json\\n' + tool['function']['arguments'] + '\\n' }}", false),
            ("no calls", false),
        ] {
            assert_eq!(takes_argument_objects(source), objects, "{source}");
        }
    }
}
