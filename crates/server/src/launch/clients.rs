//! What each client is told, and how.

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::error::LaunchError;
use super::folders::Folders;
use super::served::Served;

/// A client that `moesaic launch` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// Claude Code
    Claude,
    /// Codex CLI
    Codex,
    /// OpenCode
    Opencode,
    /// pi
    Pi,
    /// Open WebUI
    OpenWebui,
}

/// The variable that clients read the key from, where they can be told one.
pub(super) const KEY_VARIABLE: &str = "MOESAIC_API_KEY";

/// pi learns of a provider from an extension only; this one says what a variable holds.
const PI_EXTENSION: &str =
    "export default (pi) => pi.registerProvider(\"moesaic\", JSON.parse(process.env.MOESAIC_PI_PROVIDER));\n";

/// A client's start: variables, arguments, and a file that must be there.
#[derive(Debug)]
pub(super) struct Start {
    pub program: &'static str,
    pub env: Vec<(&'static str, String)>,
    pub args: Vec<String>,
    pub file: Option<NeededFile>,
}

/// A file of ours, none of the user's.
#[derive(Debug)]
pub(super) struct NeededFile {
    pub path: PathBuf,
    pub text: String,
}

impl Client {
    /// What is run.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
            Self::Pi => "pi",
            Self::OpenWebui => "open-webui",
        }
    }

    /// What brings it onto a machine.
    pub(super) fn install_command(self) -> &'static str {
        match self {
            Self::Claude => "npm install -g @anthropic-ai/claude-code",
            Self::Codex => "npm install -g @openai/codex",
            Self::Opencode => "npm install -g opencode-ai",
            Self::Pi => "npm install -g @mariozechner/pi-coding-agent",
            Self::OpenWebui => "pip install open-webui",
        }
    }
}

impl Start {
    pub fn new(client: Client, served: &Served, folders: &Folders, more: Vec<String>) -> Result<Self, LaunchError> {
        let key = (KEY_VARIABLE, served.shown_key());
        let (mut file, mut args) = (None, Vec::new());
        let env = match client {
            Client::Claude => claude_variables(served),
            Client::Codex => {
                args = codex_settings(served).into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect();
                vec![key]
            }
            Client::Opencode => vec![key, ("OPENCODE_CONFIG_CONTENT", opencode_settings(served).to_string())],
            Client::Pi => {
                let path = folders.cache()?.join("pi.mjs");
                args = ["-e", &path.to_string_lossy(), "--provider", "moesaic", "--model", &served.model]
                    .map(str::to_owned)
                    .to_vec();
                file = Some(NeededFile { path, text: PI_EXTENSION.to_owned() });
                vec![key, ("MOESAIC_PI_PROVIDER", pi_provider(served).to_string())]
            }
            Client::OpenWebui => {
                // Without arguments it only shows its help.
                if more.is_empty() {
                    args.push("serve".to_owned());
                }
                open_webui_variables(served)
            }
        };
        args.extend(more);
        Ok(Self { program: client.program(), env, args, file })
    }
}

/// Every name that Claude Code has for a model is ours, or it would ask for Anthropic's.
pub(super) fn claude_variables(served: &Served) -> Vec<(&'static str, String)> {
    let models = [
        "ANTHROPIC_MODEL",
        "ANTHROPIC_SMALL_FAST_MODEL",
        "ANTHROPIC_DEFAULT_OPUS_MODEL",
        "ANTHROPIC_DEFAULT_SONNET_MODEL",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
        "CLAUDE_CODE_SUBAGENT_MODEL",
    ];
    let mut variables = vec![
        ("ANTHROPIC_BASE_URL", served.url.clone()),
        ("ANTHROPIC_AUTH_TOKEN", served.shown_key()),
        // A key for Anthropic is none of this server's business.
        ("ANTHROPIC_API_KEY", String::new()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
    ];
    variables.extend(models.map(|name| (name, served.model.clone())));
    if let Some(context) = served.context {
        variables.push(("CLAUDE_CODE_AUTO_COMPACT_WINDOW", context.to_string()));
    }
    variables
}

/// Lines of TOML, as `-c` and its files take them.
pub(super) fn codex_settings(served: &Served) -> Vec<String> {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut settings = vec![
        format!("model={}", text(&served.model)),
        "model_provider=\"moesaic\"".to_owned(),
        "model_providers.moesaic.name=\"moesaic\"".to_owned(),
        format!("model_providers.moesaic.base_url={}", text(&format!("{}/v1", served.url))),
        "model_providers.moesaic.wire_api=\"responses\"".to_owned(),
    ];
    // Codex does not start without a variable that is named here.
    if served.key.is_some() {
        settings.push(format!("model_providers.moesaic.env_key={}", text(KEY_VARIABLE)));
    }
    if let Some(context) = served.context {
        settings.push(format!("model_context_window={context}"));
    }
    settings
}

/// `small_model` writes titles.
pub(super) fn opencode_settings(served: &Served) -> Value {
    let (name, mut model) = (format!("moesaic/{}", served.model), json!({"name": served.model}));
    if let Some(context) = served.context {
        model["limit"] = json!({"context": context, "output": max_output(context)});
    }
    json!({
        "model": name,
        "small_model": name,
        "provider": {"moesaic": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "moesaic",
            "options": {"baseURL": format!("{}/v1", served.url), "apiKey": format!("{{env:{KEY_VARIABLE}}}")},
            "models": {&served.model: model},
        }},
    })
}

/// The key is the name of the variable: pi runs what a literal key with `!` before it says.
pub(super) fn pi_provider(served: &Served) -> Value {
    let mut model = json!({
        "id": served.model,
        "name": served.model,
        "reasoning": false,
        "input": ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
    });
    if let Some(context) = served.context {
        model["contextWindow"] = json!(context);
        model["maxTokens"] = json!(max_output(context));
    }
    json!({
        "baseUrl": format!("{}/v1", served.url),
        "api": "openai-completions",
        "apiKey": KEY_VARIABLE,
        "models": [model],
    })
}

fn open_webui_variables(served: &Served) -> Vec<(&'static str, String)> {
    vec![
        ("OPENAI_API_BASE_URL", format!("{}/v1", served.url)),
        ("OPENAI_API_KEY", served.shown_key()),
        ("DEFAULT_MODELS", served.model.clone()),
        ("ENABLE_OLLAMA_API", "false".to_owned()),
    ]
}

/// Clients keep this much of the context free for an answer.
fn max_output(context: u64) -> u64 {
    (context / 4).clamp(1, 16_384)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;

    fn served() -> Served {
        Served { url: "http://h:1".into(), key: Some("k".into()), model: "it's \"x\"".into(), context: Some(65_536) }
    }

    fn start(client: Client, more: &[&str]) -> Start {
        let folders = Folders::new(|name| (name == "HOME").then(|| "/home/a".into()));
        Start::new(client, &served(), &folders, more.iter().map(|text| (*text).to_owned()).collect()).unwrap()
    }

    fn variable<'a>(start: &'a Start, name: &str) -> &'a str {
        &start.env.iter().find(|(have, _)| *have == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    #[test]
    fn claude() {
        let start = start(Client::Claude, &["-p", "hi"]);
        assert_eq!((start.program, start.args.join(" ").as_str()), ("claude", "-p hi"));
        assert_eq!(variable(&start, "ANTHROPIC_BASE_URL"), "http://h:1");
        assert_eq!(variable(&start, "ANTHROPIC_AUTH_TOKEN"), "k");
        assert_eq!(variable(&start, "ANTHROPIC_API_KEY"), "");
        assert_eq!(variable(&start, "CLAUDE_CODE_AUTO_COMPACT_WINDOW"), "65536");
        for (name, value) in &start.env {
            assert!(!name.ends_with("_MODEL") || value == "it's \"x\"", "{name}={value}");
        }
    }

    #[test]
    fn codex() {
        let start = start(Client::Codex, &["exec", "hi"]);
        assert_eq!(start.env, [("MOESAIC_API_KEY", "k".to_owned())]);
        let (settings, more) = start.args.split_at(start.args.len() - 2);
        assert_eq!(more, ["exec", "hi"]);
        assert!(settings.chunks(2).all(|pair| pair[0] == "-c"));
        let lines: Vec<&str> = settings.chunks(2).map(|pair| pair[1].as_str()).collect();
        let read: toml::Table = lines.join("\n").parse().unwrap();
        assert_eq!(read["model"].as_str(), Some("it's \"x\""));
        let provider = &read["model_providers"][read["model_provider"].as_str().unwrap()];
        assert_eq!(provider["base_url"].as_str(), Some("http://h:1/v1"));
        assert_eq!(provider["env_key"].as_str(), Some("MOESAIC_API_KEY"));
        assert_eq!(read["model_context_window"].as_integer(), Some(65_536));
    }

    #[test]
    fn opencode() {
        let start = start(Client::Opencode, &[]);
        let read: Value = serde_json::from_str(variable(&start, "OPENCODE_CONFIG_CONTENT")).unwrap();
        assert_eq!(read["model"], "moesaic/it's \"x\"");
        let provider = &read["provider"]["moesaic"];
        assert_eq!(provider["options"]["baseURL"], "http://h:1/v1");
        assert_eq!(provider["models"]["it's \"x\""]["limit"], json!({"context": 65_536, "output": 16_384}));
        assert_eq!(variable(&start, "MOESAIC_API_KEY"), "k");
    }

    #[test]
    fn pi() {
        let start = start(Client::Pi, &["-p", "hi"]);
        let file = start.file.as_ref().unwrap();
        assert_eq!(file.path.to_str(), Some("/home/a/.cache/moesaic/pi.mjs"));
        let expected =
            ["-e", "/home/a/.cache/moesaic/pi.mjs", "--provider", "moesaic", "--model", "it's \"x\"", "-p", "hi"];
        assert_eq!(start.args, expected);
        let read: Value = serde_json::from_str(variable(&start, "MOESAIC_PI_PROVIDER")).unwrap();
        assert_eq!((&read["apiKey"], &read["models"][0]["contextWindow"]), (&json!("MOESAIC_API_KEY"), &json!(65_536)));
    }

    #[test]
    fn open_webui() {
        assert_eq!(start(Client::OpenWebui, &[]).args, ["serve"]);
        let start = start(Client::OpenWebui, &["serve", "--port", "9"]);
        assert_eq!(start.args, ["serve", "--port", "9"]);
        assert_eq!(variable(&start, "OPENAI_API_BASE_URL"), "http://h:1/v1");
    }

    #[test]
    fn a_server_that_tells_no_context_length_and_wants_no_key() {
        let served = Served { context: None, key: None, ..served() };
        assert!(codex_settings(&served).iter().all(|setting| !setting.contains("env_key")));
        assert!(claude_variables(&served).contains(&("ANTHROPIC_AUTH_TOKEN", "none".to_owned())));
        assert!(claude_variables(&served).iter().all(|(name, _)| *name != "CLAUDE_CODE_AUTO_COMPACT_WINDOW"));
        assert!(codex_settings(&served).iter().all(|setting| !setting.starts_with("model_context_window")));
        assert_eq!(opencode_settings(&served)["provider"]["moesaic"]["models"]["it's \"x\""].get("limit"), None);
        assert_eq!(pi_provider(&served)["models"][0].get("contextWindow"), None);
    }
}
