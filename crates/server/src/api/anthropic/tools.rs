//! The tools of a request for a message, as functions.

use moesaic_protocol::anthropic::{InputTool, InputToolChoice};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, echo};

/// What the model may call.
pub struct Tools {
    /// As a chat request has them.
    pub functions: Vec<Value>,
    /// Where each stands in the request.
    pub places: Vec<String>,
    /// Names of the others, which Anthropic's servers would run.
    left_out: Vec<String>,
}

/// Reads the tools.
///
/// # Errors
/// Names the tool that is none.
pub fn read(tools: Vec<InputTool>) -> Result<Tools, ApiError> {
    let mut read = Tools { functions: Vec::new(), places: Vec::new(), left_out: Vec::new() };
    for (index, tool) in tools.into_iter().enumerate() {
        let function = match tool.kind.as_deref() {
            None | Some("custom") => function(tool),
            Some(kind) if is_anthropics(kind) => {
                let Some((description, parameters)) = known(kind) else {
                    read.left_out.extend(tool.name);
                    continue;
                };
                json!({"name": tool.name, "description": description, "parameters": parameters})
            }
            Some(kind) => {
                let message = format!("must be \"custom\" or a tool of Anthropic's, not {:?}", echo(kind));
                return Err(ApiError::invalid(format!("tools[{index}].type"), message));
            }
        };
        read.functions.push(json!({"type": "function", "function": function}));
        read.places.push(format!("tools[{index}]"));
    }
    if !read.left_out.is_empty() {
        tracing::debug!(tools = ?read.left_out, "passed over: tools that Anthropic's servers run");
    }
    Ok(read)
}

impl Tools {
    /// Which of them may be called, as a chat request has it.
    ///
    /// # Errors
    /// When a call is asked for that nobody here could carry out.
    pub fn choice(&self, choice: InputToolChoice) -> Result<Value, ApiError> {
        let nobody_runs = |names: &str| {
            let message = format!("asks for a call of {}, which only Anthropic's servers run", echo(names));
            Err(ApiError::invalid("tool_choice", message))
        };
        Ok(match (choice.kind.as_str(), choice.name) {
            ("auto", _) => "auto".into(),
            ("any", _) if self.functions.is_empty() && !self.left_out.is_empty() => {
                return nobody_runs(&self.left_out.join(", "));
            }
            ("any", _) => "required".into(),
            ("none", _) => "none".into(),
            ("tool", Some(name)) if self.left_out.contains(&name) => return nobody_runs(&name),
            ("tool", Some(name)) => json!({"type": "function", "function": {"name": name}}),
            _ => {
                let message = "must be of type \"auto\", \"any\", \"none\", or \"tool\" with a name";
                return Err(ApiError::invalid("tool_choice", message));
            }
        })
    }
}

fn function(tool: InputTool) -> Value {
    let mut function = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            function.insert(key.to_owned(), value);
        }
    };
    set("name", tool.name.map(Value::from));
    set("description", tool.description.map(Value::from));
    set("parameters", Some(tool.input_schema.unwrap_or_else(|| json!({"type": "object"}))));
    set("strict", tool.strict.map(Value::from));
    function.into()
}

/// Whether Anthropic defined the tool: such types end in the day of their version.
fn is_anthropics(kind: &str) -> bool {
    let is_day = |day: &str| day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
    kind == "mcp_toolset" || kind.rsplit_once('_').is_some_and(|(_, day)| is_day(day))
}

/// What is known of those that the client itself carries out: what they do, and their arguments.
fn known(kind: &str) -> Option<(&'static str, Value)> {
    let text = || json!({"type": "string"});
    if kind.starts_with("bash_") {
        let arguments = json!({"command": text(), "restart": {"type": "boolean"}});
        return Some((
            "Runs a command in a shell that stays open.",
            json!({"type": "object", "properties": arguments}),
        ));
    }
    let mut commands = vec!["view", "create", "str_replace", "insert"];
    let mut arguments = json!({
        "path": text(), "file_text": text(), "old_str": text(), "new_str": text(), "insert_text": text(),
        "insert_line": {"type": "integer"}, "view_range": {"type": "array", "items": {"type": "integer"}},
    });
    let description = if kind.starts_with("text_editor_") {
        "Views, creates and edits text files."
    } else if kind.starts_with("memory_") {
        commands.extend(["delete", "rename"]);
        (arguments["old_path"], arguments["new_path"]) = (text(), text());
        "Keeps notes in files below /memories, for later conversations."
    } else {
        return None;
    };
    arguments["command"] = json!({"type": "string", "enum": commands});
    Some((description, json!({"type": "object", "properties": arguments, "required": ["command"]})))
}
