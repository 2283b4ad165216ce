//! What a chat template takes: found by rendering small conversations once, not by reading its text.
//!
//! A template may raise, print `None`, quote an argument twice or drop a message without a word. Each form that a
//! message can take is tried; the first that loses nothing and shows nothing foreign is the one that is used.

use serde_json::{Map, Value, json};

use crate::ChatTemplate;

const USER: &str = "Qzuser";
const ANSWER: &str = "Qzanswer";
const RESULT: &str = "Qzresult";
const SYSTEM: &str = "Qzsystem";
const MORE: &str = "Qzmore";
const FUNCTION: &str = "qz_call";
const ARGUMENTS: &str = r#"{"qz_key":"qz_value"}"#;
/// Nine letters or digits, which every template takes.
const ID: &str = "qzcallid1";
const LONG_ID: &str = "call_0123456789abcdef01234567";

/// How a message without content is given to the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoContent {
    /// `none`.
    Null,
    /// An empty text.
    Empty,
    /// No such key.
    Absent,
}

impl NoContent {
    /// Writes it into a message.
    pub fn put(self, message: &mut Map<String, Value>) {
        match self {
            Self::Null => message.insert("content".to_owned(), Value::Null),
            Self::Empty => message.insert("content".to_owned(), "".into()),
            Self::Absent => message.shift_remove("content"),
        };
    }

    fn name(self) -> &'static str {
        match self {
            Self::Null => "none",
            Self::Empty => "empty",
            Self::Absent => "absent",
        }
    }
}

/// Roles whose content is tried on its own.
pub(crate) const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// What a template takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of its own")]
pub(crate) struct TemplateShape {
    /// Arguments of a call are an object, else JSON text.
    pub parses_arguments: bool,
    /// Arguments that are no object are taken too.
    pub takes_other_arguments: bool,
    /// An assistant's null content beside calls.
    pub beside_calls: NoContent,
    /// An assistant's empty content beside calls.
    pub empty_beside_calls: NoContent,
    /// Null content where there are no calls, by role as in [`ROLES`].
    pub no_content: [NoContent; 4],
    /// Content may be a list of parts, by role as in [`ROLES`].
    pub takes_parts: [bool; 4],
    /// Content may be a text, else it is one part; by role as in [`ROLES`].
    pub takes_text: [bool; 4],
    /// A message may hold several calls.
    pub takes_several_calls: bool,
    /// The role developer is known.
    pub knows_developer: bool,
    /// There may be a system message at all.
    pub takes_system: bool,
    /// There may be several at the start.
    pub takes_several_systems: bool,
    /// There may be one in the midst.
    pub takes_late_system: bool,
    /// Ids of calls may be longer than nine characters.
    pub takes_long_ids: bool,
    /// Ids of calls may be shorter than nine characters, or missing.
    pub takes_short_ids: bool,
}

/// A conversation's rendering, judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is there; so many words of Python or JSON stand in it.
    Whole(usize),
    /// Something is missing.
    Lossy(usize),
    Failed,
}

impl Outcome {
    fn is_whole(self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// The form with the best outcome, the first of equals.
fn best<const N: usize>(forms: [NoContent; N], outcome: impl Fn(NoContent) -> Outcome) -> NoContent {
    forms.into_iter().min_by_key(|form| outcome(*form)).unwrap_or(NoContent::Empty)
}

/// Renders small conversations.
struct Prober<'a> {
    template: &'a ChatTemplate,
    bos_token: &'a str,
    eos_token: &'a str,
}

impl TemplateShape {
    /// Tries the template. Takes a fraction of a second even with a template made to be slow.
    pub fn find(template: &ChatTemplate, bos_token: &str, eos_token: &str) -> Self {
        let prober = Prober { template, bos_token, eos_token };
        let parses_arguments = prober.parses_arguments();
        let object = json!({"qz_key": "qz_value"});
        let arguments = if parses_arguments { object } else { ARGUMENTS.into() };
        let list = prober.calls(&json!(["qz_value"]), NoContent::Empty, ID, &[]);
        let beside_calls = best([NoContent::Null, NoContent::Empty, NoContent::Absent], |form| {
            prober.calls(&arguments, form, ID, &[])
        });
        let empty_beside_calls = best([NoContent::Empty, beside_calls], |form| prober.calls(&arguments, form, ID, &[]));
        let with_id = |id| prober.calls(&arguments, beside_calls, id, &[]).is_whole();
        let takes_system = prober.has_system(&[SYSTEM], &[]);
        Self {
            parses_arguments,
            takes_other_arguments: list.is_whole(),
            beside_calls,
            empty_beside_calls,
            no_content: ROLES.map(|role| {
                best([NoContent::Empty, NoContent::Null, NoContent::Absent], |form| {
                    let mut message = Map::from_iter([("role".to_owned(), role.into())]);
                    form.put(&mut message);
                    prober.content(role, message.into(), &[], &arguments)
                })
            }),
            takes_parts: ROLES.map(|role| prober.takes_parts(role, &[RESULT, MORE], &arguments)),
            takes_text: ROLES.map(|role| {
                prober.with_text(role, &arguments).is_whole() || !prober.takes_parts(role, &[RESULT], &arguments)
            }),
            takes_several_calls: prober.two_calls(&arguments, beside_calls),
            knows_developer: prober
                .render(&json!([{"role": "developer", "content": SYSTEM}, user(USER)]), &[SYSTEM, USER])
                .is_whole(),
            takes_system,
            takes_several_systems: takes_system && prober.has_system(&[SYSTEM, MORE], &[]),
            takes_late_system: takes_system && prober.has_system(&[SYSTEM], &[MORE]),
            takes_long_ids: with_id(LONG_ID) || !with_id(ID),
            takes_short_ids: with_id("1") || !with_id(ID),
        }
    }

    /// What was found, in a few words for the log.
    pub fn summary(&self) -> String {
        let choose = |flag: bool, yes: &'static str, no: &'static str| if flag { yes } else { no };
        let parts: Vec<&str> =
            ROLES.iter().zip(self.takes_parts).filter(|(_, takes)| *takes).map(|(role, _)| *role).collect();
        let parts =
            if parts.is_empty() { "content as text".to_owned() } else { format!("parts of {}", parts.join("/")) };
        let systems = match (self.takes_system, self.takes_several_systems, self.takes_late_system) {
            (false, _, _) => "system text in the user's turn",
            (_, true, true) => "system messages anywhere",
            (_, true, false) => "system messages first",
            (_, false, true) => "adjacent system messages joined",
            (_, false, false) => "system messages joined",
        };
        let calls = choose(self.takes_several_calls, "", ", one call per message");
        let ids = choose(self.takes_long_ids && self.takes_short_ids, "", ", ids of calls with nine characters");
        format!(
            "arguments as {}, null content beside calls as {}, {parts}, developer {}, {systems}{calls}{ids}",
            choose(self.parses_arguments, "objects", "text"),
            self.beside_calls.name(),
            choose(self.knows_developer, "known", "as system"),
        )
    }
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

impl Prober<'_> {
    /// Judges a conversation: all of `wanted` should be in its rendering.
    fn render(&self, messages: &Value, wanted: &[&str]) -> Outcome {
        let Some(text) = self.text(messages) else { return Outcome::Failed };
        let foreign = ["None", "null", "'text'", "\"text\"", "undefined"];
        let num_foreign = foreign.iter().map(|word| text.matches(word).count()).sum();
        let is_whole = wanted.iter().all(|word| text.contains(word));
        if is_whole { Outcome::Whole(num_foreign) } else { Outcome::Lossy(num_foreign) }
    }

    fn text(&self, messages: &Value) -> Option<String> {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "description": "A."}}});
        let function = json!({"name": "qz_tool", "description": "A tool.", "parameters": schema});
        let context = json!({
            "messages": messages,
            "tools": [{"type": "function", "function": function}],
            "documents": null,
            "add_generation_prompt": true,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        });
        self.template.probe(context)
    }

    /// A call and its result.
    fn call_messages(arguments: &Value, content: NoContent, id: &str) -> Value {
        let function = json!({"name": FUNCTION, "arguments": arguments});
        let calls = json!([{"id": id, "type": "function", "function": function}]);
        let mut assistant = Map::from_iter([("role".to_owned(), "assistant".into())]);
        content.put(&mut assistant);
        assistant.insert("tool_calls".to_owned(), calls);
        json!([user(USER), assistant, {"role": "tool", "content": RESULT, "tool_call_id": id, "name": FUNCTION}])
    }

    fn calls(&self, arguments: &Value, content: NoContent, id: &str, wanted: &[&str]) -> Outcome {
        let wanted = [&[USER, FUNCTION, "qz_value", RESULT], wanted].concat();
        self.render(&Self::call_messages(arguments, content, id), &wanted)
    }

    fn two_calls(&self, arguments: &Value, content: NoContent) -> bool {
        let mut messages = Self::call_messages(arguments, content, ID);
        if let Some([_, assistant, result]) = messages.as_array_mut().map(Vec::as_mut_slice) {
            let mut second = assistant["tool_calls"][0].clone();
            (second["id"], second["function"]["name"]) = ("qzcallid2".into(), MORE.into());
            assistant["tool_calls"].as_array_mut().into_iter().for_each(|calls| calls.push(second.clone()));
            let mut answer = result.clone();
            (answer["tool_call_id"], answer["content"], answer["name"]) =
                ("qzcallid2".into(), ANSWER.into(), MORE.into());
            messages.as_array_mut().into_iter().for_each(|all| all.push(answer.clone()));
        }
        self.render(&messages, &[USER, FUNCTION, MORE, RESULT, ANSWER]).is_whole()
    }

    /// Whether arguments have to be an object: text that comes out as it is stays text.
    fn parses_arguments(&self) -> bool {
        let best = |arguments: &Value, is_right: fn(&str) -> bool| {
            [NoContent::Empty, NoContent::Null, NoContent::Absent]
                .into_iter()
                .filter_map(|content| self.text(&Self::call_messages(arguments, content, ID)))
                .map(|text| match (is_right(&text), text.contains("qz_value") && text.contains("qz_key")) {
                    (true, _) => 0,
                    (false, true) => 1,
                    (false, false) => 2,
                })
                .min()
                .unwrap_or(3)
        };
        let as_text = best(&ARGUMENTS.into(), |text| text.contains(ARGUMENTS));
        let as_object = best(&json!({"qz_key": "qz_value"}), |text| {
            let is_spelled_wrong = text.contains("'qz_key'") || text.contains("\\\"qz_key");
            text.contains("qz_key") && text.contains("qz_value") && !is_spelled_wrong
        });
        as_object < as_text
    }

    /// Whether all of these system messages are shown: some first, some after a turn.
    fn has_system(&self, first: &[&str], late: &[&str]) -> bool {
        let system = |text: &&str| json!({"role": "system", "content": text});
        let mut messages: Vec<Value> = first.iter().map(system).collect();
        if !late.is_empty() {
            messages.extend([user(USER), json!({"role": "assistant", "content": ANSWER})]);
            messages.extend(late.iter().map(system));
        }
        messages.push(user(USER));
        self.render(&messages.into(), &[first, late, &[USER]].concat()).is_whole()
    }

    /// A conversation around one message, judged.
    fn content(&self, role: &str, message: Value, wanted: &[&str], arguments: &Value) -> Outcome {
        let messages = match role {
            "system" => json!([message, user(USER)]),
            "user" => json!([message]),
            "assistant" => json!([user(USER), message, user(USER)]),
            _ => {
                let mut messages = Self::call_messages(arguments, NoContent::Empty, ID);
                if let Some(result) = messages.get_mut(2).and_then(Value::as_object_mut) {
                    result.remove("content");
                    result.extend(message.as_object().cloned().unwrap_or_default());
                }
                messages
            }
        };
        self.render(&messages, wanted)
    }

    fn with_text(&self, role: &str, arguments: &Value) -> Outcome {
        self.content(role, json!({"role": role, "content": RESULT}), &[RESULT], arguments)
    }

    /// Parts are taken where their texts are shown and nothing else of them.
    fn takes_parts(&self, role: &str, texts: &[&str], arguments: &Value) -> bool {
        let parts: Value = texts.iter().map(|text| json!({"type": "text", "text": text})).collect();
        let outcome = self.content(role, json!({"role": role, "content": parts}), texts, arguments);
        let as_text = self.with_text(role, arguments);
        outcome.is_whole() && (outcome <= as_text || !as_text.is_whole())
    }
}
