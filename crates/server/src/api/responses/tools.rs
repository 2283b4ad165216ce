//! Tools of the Responses API as functions of a chat request.

use std::collections::HashMap;

use moesaic_chat::{InputGrammar, text_tool};
use moesaic_protocol::responses::ResponsesTool;
use serde_json::{Value, json};

use crate::config::HostedTools;
use crate::error::{ApiError, echo};

/// Between a namespace and a tool in it, in the name that the model sees.
const SEPARATOR: &str = "__";
/// Tools that the API's own servers carry out, by the beginnings of their types.
const RUN_BY_SERVERS: [&str; 8] = [
    "web_search",
    "file_search",
    "code_interpreter",
    "image_generation",
    "computer",
    "mcp",
    "tool_search",
    "programmatic_tool_calling",
];
/// Tools of the API's own that clients carry out, which its models are trained for.
const RUN_BY_CLIENTS: [&str; 3] = ["local_shell", "shell", "apply_patch"];

/// What a function of the chat request stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offered {
    /// The tool's own name.
    pub name: String,
    /// The namespace that it is in.
    pub namespace: Option<String>,
    /// It takes text.
    pub is_custom: bool,
}

/// The tools of a request.
#[derive(Debug, Clone, Default)]
pub struct OfferedTools {
    /// As a chat request has them; `None` where there are none.
    pub functions: Option<Vec<Value>>,
    /// `tool_choice` of the chat request.
    pub choice: Option<Value>,
    /// What the inputs of custom tools must look like, by the names of their functions.
    pub inputs: HashMap<String, InputGrammar>,
    /// What remains of the request's tools.
    pub remaining: Vec<ResponsesTool>,
    /// What each function stands for, by its name.
    offered: HashMap<String, Offered>,
    /// Where the request has each function.
    pub places: Vec<String>,
}

/// The name by which the model knows a tool.
pub fn function_name(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}{SEPARATOR}{name}"))
}

impl OfferedTools {
    /// Reads the tools and `tool_choice`.
    ///
    /// # Errors
    /// Names the tool that is wrong or not served.
    pub fn new(tools: Vec<ResponsesTool>, choice: Option<&Value>, hosted_tools: HostedTools) -> Result<Self, ApiError> {
        let mut all = Self::default();
        let mut functions = Vec::new();
        for (index, tool) in tools.into_iter().enumerate() {
            let path = format!("tools[{index}]");
            if is_hosted(&tool.kind) {
                if hosted_tools == HostedTools::Refuse {
                    let message = format!("tools of type {:?} are not supported here", echo(&tool.kind));
                    return Err(ApiError::invalid(format!("{path}.type"), message));
                }
                passed_over(&tool.kind);
                continue;
            }
            if tool.kind == "namespace" {
                let name = tool.name.clone().filter(|name| !name.is_empty());
                let name = name.ok_or_else(|| ApiError::invalid(format!("{path}.name"), "is required"))?;
                for (index, inner) in tool.tools.iter().flatten().enumerate() {
                    functions.push(all.add(inner, Some(&name), format!("{path}.tools[{index}]"))?);
                }
            } else {
                functions.push(all.add(&tool, None, path)?);
            }
            all.remaining.push(tool);
        }
        all.choice = choice.map(|choice| all.read_choice(choice)).transpose()?;
        all.functions = (!functions.is_empty()).then_some(functions);
        Ok(all)
    }

    fn add(&mut self, tool: &ResponsesTool, namespace: Option<&str>, path: String) -> Result<Value, ApiError> {
        let name = tool.name.clone().unwrap_or_default();
        let function = function_name(namespace, &name);
        let described = match tool.kind.as_str() {
            "function" => {
                let mut described = json!({"name": function});
                for (key, value) in [
                    ("description", tool.description.clone().map(Value::from)),
                    ("parameters", tool.parameters.clone()),
                    ("strict", tool.strict.map(Value::from)),
                ] {
                    if let Some(value) = value {
                        described[key] = value;
                    }
                }
                described
            }
            "custom" => {
                let grammar = input_grammar(tool.format.as_ref(), &path)?;
                let described = text_tool(&function, tool.description.as_deref().unwrap_or_default(), grammar.as_ref());
                self.inputs.extend(grammar.map(|grammar| (function.clone(), grammar)));
                described
            }
            kind => {
                let message = format!("tools of type {:?} are not supported here", echo(kind));
                return Err(ApiError::invalid(format!("{path}.type"), message));
            }
        };
        let is_custom = tool.kind == "custom";
        let offered = Offered { name, namespace: namespace.map(str::to_owned), is_custom };
        self.places.push(path);
        self.offered.insert(function, offered);
        Ok(json!({"type": "function", "function": described}))
    }

    /// What a function stands for: itself, unless it was offered as something else.
    pub fn get(&self, function: &str) -> Offered {
        let plain = || Offered { name: function.to_owned(), ..Offered::default() };
        self.offered.get(function).cloned().unwrap_or_else(plain)
    }

    fn read_choice(&self, choice: &Value) -> Result<Value, ApiError> {
        let Some(kind) = choice["type"].as_str() else { return Ok(choice.clone()) };
        match kind {
            "function" | "custom" => Ok(json!({"type": "function", "function": {"name": self.chosen(choice)?}})),
            "allowed_tools" => {
                let allowed = choice["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
                // Hosted ones are passed over here as they are among the tools.
                let own = allowed.iter().filter(|tool| !tool["type"].as_str().is_some_and(is_hosted));
                let functions = own.map(|tool| Ok(json!({"type": "function", "name": self.chosen(tool)?})));
                let functions = functions.collect::<Result<Vec<_>, ApiError>>()?;
                Ok(json!({"type": "allowed_tools", "mode": choice["mode"], "tools": functions}))
            }
            kind if is_hosted(kind) => {
                let message = format!("forces a tool of type {:?}, which is not supported here", echo(kind));
                Err(ApiError::invalid("tool_choice", message))
            }
            _ => Ok(choice.clone()),
        }
    }

    /// The function that a choice names: with its namespace, or without it where that is clear.
    fn chosen(&self, choice: &Value) -> Result<String, ApiError> {
        let name = choice["name"].as_str().ok_or_else(|| ApiError::invalid("tool_choice", "must name a tool"))?;
        if let Some(namespace) = choice["namespace"].as_str() {
            return Ok(function_name(Some(namespace), name));
        }
        if self.offered.contains_key(name) {
            return Ok(name.to_owned());
        }
        let mut inside = self.offered.iter().filter(|(_, offered)| offered.name == name);
        match (inside.next(), inside.next()) {
            (Some((function, _)), None) => Ok(function.clone()),
            _ => Ok(name.to_owned()),
        }
    }
}

/// Whether a tool, or an item of one, is run where no answer of ours comes to.
pub fn is_run_by_servers(kind: &str) -> bool {
    RUN_BY_SERVERS.iter().any(|known| kind.starts_with(known))
}

fn is_hosted(kind: &str) -> bool {
    is_run_by_servers(kind) || RUN_BY_CLIENTS.contains(&kind)
}

/// Says once that tools are passed over: agents send them with every request.
fn passed_over(kind: &str) {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        tracing::info!(
            "requests offer hosted tools such as {:?}, which are passed over here (hosted_tools = \"ignore\"); said once",
            echo(kind)
        );
    });
}

fn input_grammar(format: Option<&Value>, path: &str) -> Result<Option<InputGrammar>, ApiError> {
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("grammar") => {
            let definition = format["definition"].as_str();
            let definition =
                definition.ok_or_else(|| ApiError::invalid(format!("{path}.format.definition"), "must be a text"))?;
            match format["syntax"].as_str() {
                Some("lark") => Ok(Some(InputGrammar::Lark(definition.to_owned()))),
                Some("regex") => Ok(Some(InputGrammar::Regex(definition.to_owned()))),
                _ => Err(ApiError::invalid(format!("{path}.format.syntax"), "must be \"lark\" or \"regex\"")),
            }
        }
        _ => Err(ApiError::invalid(format!("{path}.format.type"), "must be \"text\" or \"grammar\"")),
    }
}
