//! A request for a message, as a chat request.

use moesaic_protocol::anthropic::{InputContent, InputMessage, InputRole, InputThinking, OutputFormat};
use moesaic_protocol::{
    ChatMessage, ChatRequest, Content, FormatFields, MessagesRequest, Role, SamplingFields, StopSequences,
};
use serde_json::{Value, json};

use crate::api::anthropic::{content, tools};
use crate::error::ApiError;
use crate::field::Field;

/// What the fields of the chat request are called here.
pub const FIELDS: &[Field] = &[
    // Instructions and results of tools are messages of their own there, so places differ.
    Field::whole("messages", "messages"),
    Field::whole("continue_final_message", "messages"),
    Field::new("stop", "stop_sequences"),
    Field::new("reasoning_effort", "thinking.type"),
    Field::new("thinking_token_budget", "thinking.budget_tokens"),
    Field::new("response_format.json_schema", FORMAT),
    Field::new("response_format", FORMAT),
    Field::new("tools[].function.parameters", "tools[].input_schema"),
    Field::new("tools[].function", "tools[]"),
    Field::new("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
];
const FORMAT: &str = "output_config.format";
const OLDER_FORMAT: &str = "output_format";
/// Where the request has the older name.
const OLDER_FIELDS: &[Field] = &[Field::new(FORMAT, OLDER_FORMAT)];

/// A chat request, and what of its origin that does not show.
pub struct Translation {
    /// The chat request.
    pub chat: ChatRequest,
    /// The client wants no text of thoughts.
    pub omits_thoughts: bool,
    /// Where the tools that were kept stand in the request.
    tool_places: Vec<String>,
    older_format: bool,
}

impl Translation {
    /// An error about the chat request that names the fields of [`FIELDS`], by the names and places of this request.
    pub fn own_error(&self, error: ApiError) -> ApiError {
        let error = error.at_own_places("tools", &self.tool_places);
        if self.older_format { error.in_terms_of(OLDER_FIELDS) } else { error }
    }
}

/// Translates the request.
///
/// # Errors
/// When it holds what is not served.
pub fn translate(request: MessagesRequest) -> Result<Translation, ApiError> {
    if request.thread.is_some_and(|thread| thread.kind == "continue") {
        return Err(ApiError::invalid(
            "thread",
            "cannot be continued: nothing is kept here, send the whole conversation",
        ));
    }
    let (thinks, omits_thoughts) = request.thinking.as_ref().map(thinking).transpose()?.unwrap_or_default();
    let (response_format, older_format) =
        format(request.output_config.and_then(|config| config.format), request.output_format)?;
    let tools = tools::read(request.tools.unwrap_or_default())?;
    let mut chat = ChatRequest {
        model: request.model,
        max_tokens: request.max_tokens,
        sampling: SamplingFields {
            temperature: request.temperature,
            top_p: request.top_p,
            top_k: request.top_k.map(i64::from),
            stop: request.stop_sequences.filter(|stops| !stops.is_empty()).map(StopSequences::Many),
            stream: request.stream,
            ..SamplingFields::default()
        },
        format: FormatFields { response_format, ..FormatFields::default() },
        reasoning_effort: thinks.map(|thinks| if thinks { "high" } else { "none" }.to_owned()),
        thinking_token_budget: request
            .thinking
            .and_then(|thinking| thinking.budget_tokens)
            .filter(|_| thinks == Some(true)),
        ..ChatRequest::default()
    };
    if let Some(choice) = request.tool_choice {
        chat.parallel_tool_calls = Some(!choice.disable_parallel_tool_use.unwrap_or(false));
        chat.tool_choice = Some(tools.choice(choice)?);
    }
    chat.tools = Some(tools.functions).filter(|tools| !tools.is_empty());
    (chat.messages, chat.continue_final_message) = messages(request.system, request.messages)?;
    Ok(Translation { chat, omits_thoughts, tool_places: tools.places, older_format })
}

/// Whether to think, and whether the thoughts are kept from the client.
fn thinking(thinking: &InputThinking) -> Result<(Option<bool>, bool), ApiError> {
    let thinks = match thinking.kind.as_str() {
        "enabled" | "adaptive" => true,
        // Only what a model says between its calls is shown as thoughts then; it does not think.
        "disabled" | "between_tools" => false,
        _ => {
            let message = "must be \"enabled\", \"adaptive\", \"between_tools\" or \"disabled\"";
            return Err(ApiError::invalid("thinking.type", message));
        }
    };
    Ok((Some(thinks), thinking.display.as_deref() == Some("omitted")))
}

/// The format as a chat request has it, and whether it stood under its older name.
fn format(newer: Option<OutputFormat>, older: Option<OutputFormat>) -> Result<(Option<Value>, bool), ApiError> {
    let (format, name) = match (newer, older) {
        (Some(newer), Some(older)) if (&newer.kind, &newer.schema) != (&older.kind, &older.schema) => {
            return Err(ApiError::conflict(OLDER_FORMAT, FORMAT));
        }
        (Some(format), _) => (format, FORMAT),
        (None, Some(format)) => (format, OLDER_FORMAT),
        (None, None) => return Ok((None, false)),
    };
    if format.kind != "json_schema" {
        return Err(ApiError::invalid(format!("{name}.type"), "must be \"json_schema\""));
    }
    let format = json!({"type": "json_schema", "json_schema": {"name": "output", "schema": format.schema}});
    Ok((Some(format), name == OLDER_FORMAT))
}

/// The conversation, and whether its last message is to be continued.
fn messages(
    system: Option<InputContent>,
    messages: Vec<InputMessage>,
) -> Result<(Vec<ChatMessage>, Option<bool>), ApiError> {
    let is_empty =
        |message: &InputMessage| matches!(&message.content, InputContent::Blocks(blocks) if blocks.is_empty());
    if system.is_none() && !messages.is_empty() && messages.iter().all(is_empty) {
        return Err(ApiError::invalid("messages[0].content", "must hold at least one block"));
    }
    let continues = messages.last().is_some_and(|message| message.role == InputRole::Assistant);
    let mut chat = Vec::with_capacity(messages.len() + 1);
    if let Some(system) = system {
        content::add_system(system, "system", &mut chat)?;
    }
    for (index, message) in messages.into_iter().enumerate() {
        content::add(message, &format!("messages[{index}].content"), &mut chat)?;
    }
    // The answer's beginning may be empty: there is nothing to continue then.
    if continues && chat.len() > 1 && chat.last().is_some_and(says_nothing) {
        chat.pop();
        return Ok((chat, None));
    }
    Ok((chat, continues.then_some(true)))
}

fn says_nothing(message: &ChatMessage) -> bool {
    let is_blank = |content: &Content| matches!(content, Content::Text(text) if text.trim().is_empty());
    message.role == Role::Assistant
        && message.tool_calls.is_none()
        && message.reasoning_content.is_none()
        && message.content.as_ref().is_none_or(is_blank)
}
