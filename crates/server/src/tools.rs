//! Tools of a chat request: what is offered, and which calls are allowed or required.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use moesaic_chat::{AnswerFormat, CallRules, CallableTool, InputGrammar, Otherwise};
use moesaic_protocol::{ChatMessage, ChatRequest, FunctionSpec, Role, from_value};
use serde_json::{Value, json};

use crate::error::ApiError;

/// Most tools in a request: agents with many servers of tools send hundreds.
const MAX_TOOLS: usize = 512;
/// Longest name of a tool, as Anthropic has it.
const MAX_NAME: usize = 128;

/// Tools that the model may call.
#[derive(Debug, Clone)]
pub struct ToolSettings {
    /// As the client sent them, for the prompt.
    pub for_prompt: Vec<Value>,
    /// Functions that may be called now.
    pub callable: Vec<FunctionSpec>,
    /// A call is a must.
    pub required: bool,
    /// An answer may hold several calls.
    pub parallel: bool,
    /// The request used the older `functions`, so the answer does.
    pub legacy: bool,
    /// What the inputs of functions that take text must look like, by the functions' names.
    pub inputs: HashMap<String, InputGrammar>,
}

impl ToolSettings {
    /// Reads the tool fields. `None` when no tool is to be called.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn new(request: &ChatRequest) -> Result<Option<Self>, ApiError> {
        let legacy = request.functions.is_some() || request.function_call.is_some();
        if legacy && (request.tools.is_some() || request.tool_choice.is_some()) {
            return Err(ApiError::invalid("functions", "cannot be combined with tools and tool_choice"));
        }
        let (param, for_prompt) = if legacy {
            let wrap = |function: &Value| json!({"type": "function", "function": function});
            ("functions", request.functions.iter().flatten().map(wrap).collect())
        } else {
            ("tools", request.tools.clone().unwrap_or_default())
        };
        let specs = specs(param, &for_prompt)?;
        let choice = if legacy { &request.function_call } else { &request.tool_choice };
        let choice_param = if legacy { "function_call" } else { "tool_choice" };
        let choice = Choice::read(choice.as_ref(), choice_param)?;
        if specs.is_empty() {
            return match choice {
                Choice::None | Choice::Auto => Ok(None),
                Choice::Required | Choice::Named(_) | Choice::Allowed { .. } => {
                    Err(ApiError::invalid(choice_param, format!("asks for a call, but there are no {param}")))
                }
            };
        }
        let parallel = request.parallel_tool_calls;
        let (names, required, parallel) = match choice {
            Choice::None => return Ok(None),
            Choice::Auto => (None, false, parallel.unwrap_or(true)),
            Choice::Required => (None, true, parallel.unwrap_or(false)),
            Choice::Named(name) => (Some(vec![name]), true, false),
            Choice::Allowed { names, required } => (Some(names), required, parallel.unwrap_or(!required)),
        };
        let callable = match names {
            None => specs,
            Some(names) => {
                if let Some(unknown) = names.iter().find(|name| specs.iter().all(|spec| spec.name != **name)) {
                    return Err(ApiError::invalid(
                        choice_param,
                        format!("names {unknown:?}, which is not among the {param}"),
                    ));
                }
                specs.into_iter().filter(|spec| names.contains(&spec.name)).collect()
            }
        };
        Ok(Some(Self { for_prompt, callable, required, parallel: parallel && !legacy, legacy, inputs: HashMap::new() }))
    }

    /// Whether a request that allows no call makes one likely: it names tools, or calls were made before.
    pub fn invite_calls(request: &ChatRequest) -> bool {
        let is_call = |message: &ChatMessage| {
            matches!(message.role, Role::Tool | Role::Function)
                || message.tool_calls.is_some()
                || message.function_call.is_some()
        };
        request.tools.is_some()
            || request.functions.is_some()
            || request.tool_choice.is_some()
            || request.messages.iter().any(is_call)
    }

    /// Names of the functions that may be called.
    pub fn names(&self) -> Arc<[String]> {
        self.callable.iter().map(|spec| spec.name.clone()).collect()
    }

    /// The grammar's rules. `relaxed`: only functions that insist on it keep their schemas.
    pub fn rules(&self, otherwise: Otherwise, relaxed: bool) -> AnswerFormat {
        let tool = |spec: &FunctionSpec| {
            let strict = spec.strict == Some(true);
            let parameters = match &spec.parameters {
                Some(schema) if !relaxed || strict => schema.clone(),
                Some(_) => json!({"type": "object"}),
                // As OpenAI has it: none named, none taken.
                None => json!({"type": "object", "additionalProperties": false}),
            };
            CallableTool { name: spec.name.clone(), parameters, strict, input: self.inputs.get(&spec.name).cloned() }
        };
        AnswerFormat::Calls(CallRules {
            tools: self.callable.iter().map(tool).collect(),
            otherwise: if self.required { Otherwise::Nothing } else { otherwise },
            parallel: self.parallel,
        })
    }
}

/// `tool_choice`, read.
enum Choice {
    None,
    Auto,
    Required,
    Named(String),
    Allowed { names: Vec<String>, required: bool },
}

impl Choice {
    fn read(value: Option<&Value>, param: &str) -> Result<Self, ApiError> {
        let wrong = || {
            let message = "must be \"none\", \"auto\", \"required\", {\"type\": \"function\", \"function\": {\"name\": …}} \
                           or {\"type\": \"allowed_tools\", \"allowed_tools\": {\"mode\": …, \"tools\": […]}}";
            ApiError::invalid(param, message)
        };
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Self::Auto) };
        let name_of = |value: &Value| {
            let name = value["function"]["name"].as_str().or_else(|| value["name"].as_str());
            name.map(str::to_owned).ok_or_else(wrong)
        };
        match value.as_str() {
            Some("none") => return Ok(Self::None),
            Some("auto") => return Ok(Self::Auto),
            Some("required") => return Ok(Self::Required),
            Some(_) => return Err(wrong()),
            None => {}
        }
        match (value["type"].as_str(), param) {
            (Some("function"), _) | (None, "function_call") => Ok(Self::Named(name_of(value)?)),
            (Some("allowed_tools"), _) => {
                let allowed = if value["allowed_tools"].is_object() { &value["allowed_tools"] } else { value };
                let required = match allowed["mode"].as_str() {
                    Some("required") => true,
                    Some("auto") => false,
                    _ => return Err(wrong()),
                };
                let tools = allowed["tools"].as_array().filter(|tools| !tools.is_empty()).ok_or_else(wrong)?;
                Ok(Self::Allowed { names: tools.iter().map(name_of).collect::<Result<_, _>>()?, required })
            }
            _ => Err(wrong()),
        }
    }
}

fn specs(param: &str, tools: &[Value]) -> Result<Vec<FunctionSpec>, ApiError> {
    if tools.len() > MAX_TOOLS {
        return Err(ApiError::invalid(param, format!("has {} entries, at most {MAX_TOOLS} are taken", tools.len())));
    }
    let mut names = HashSet::new();
    let spec = |(index, tool): (usize, &Value)| {
        let invalid = |field: &str, message: String| ApiError::invalid(format!("{param}[{index}]{field}"), message);
        if tool["type"] != "function" {
            return Err(invalid(".type", "only tools of type \"function\" are supported".to_owned()));
        }
        let inner = if param == "tools" { ".function" } else { "" };
        let spec: FunctionSpec =
            from_value(&tool["function"]).map_err(|error| error.inside(&format!("{param}[{index}]{inner}")))?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if spec.name.is_empty() || spec.name.len() > MAX_NAME || !spec.name.bytes().all(is_plain) {
            let message = format!("must be 1 to {MAX_NAME} characters of A-Z, a-z, 0-9, _ and -");
            return Err(invalid(&format!("{inner}.name"), message));
        }
        if spec.parameters.as_ref().is_some_and(|schema| !schema.is_object()) {
            return Err(invalid(&format!("{inner}.parameters"), "must be a JSON schema, that is an object".to_owned()));
        }
        if spec.parameters.as_ref().is_some_and(|schema| !takes_objects(&schema["type"])) {
            let message = "must be \"object\": arguments have names".to_owned();
            return Err(invalid(&format!("{inner}.parameters.type"), message));
        }
        if !names.insert(spec.name.clone()) {
            return Err(invalid(&format!("{inner}.name"), format!("{:?} occurs twice", spec.name)));
        }
        Ok(spec)
    };
    tools.iter().enumerate().map(spec).collect()
}

/// Whether a schema with this `type` is true of objects.
fn takes_objects(kind: &Value) -> bool {
    kind.is_null() || kind == "object" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "object"))
}
