//! Free text as a tool's input: its grammar inside of a call's arguments, and the text out of them.
//!
//! Templates know functions with JSON arguments only. So such a tool is a function with one argument, `input`, and what
//! its grammar says of the text is said of the text's JSON spelling: characters are spelled one by one, so a grammar of
//! spelled parts is the grammar of the spelled whole.

use serde_json::{Value, json};

use crate::GrammarError;
use crate::json_schema::{Budget, literal, quoted_regex};
use crate::{ebnf, text_rules};

/// The name of the argument that carries the text.
const ARGUMENT: &str = "input";
/// Longest beginning of arguments in front of the text; what is longer is of another shape.
const MAX_BEGINNING: usize = 64;

/// What a tool's input must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputGrammar {
    /// A grammar in Lark or EBNF.
    Lark(String),
    /// A regular expression that the whole input matches.
    Regex(String),
}

impl InputGrammar {
    /// Rules of arguments in JSON; the first rule has the given name.
    pub(crate) fn in_json(&self, name: &str, budget: &mut Budget) -> Result<Vec<String>, GrammarError> {
        let text = match self {
            Self::Lark(source) => format!("%lark {{\n{}\n}}", in_json_spelling(&lark(source)?, budget)?),
            Self::Regex(source) => spelled(unanchored(text_rules::bounded(source)?), budget)?,
        };
        let (open, close) = (literal(&format!("{{\"{ARGUMENT}\":\"")), literal("\"}"));
        Ok(vec![format!("{name}: {open} {name}_text {close}"), format!("{name}_text: {text}")])
    }

    /// Rules of the bare text; the first rule has the given name.
    pub(crate) fn plain(&self, name: &str) -> Result<Vec<String>, GrammarError> {
        let text = match self {
            Self::Lark(source) => format!("%lark {{\n{}\n}}", lark(source)?),
            Self::Regex(source) => text_rules::regex(unanchored(text_rules::bounded(source)?)),
        };
        Ok(vec![format!("{name}: {text}")])
    }
}

/// The function that stands for a tool that takes text: what the model sees of it.
pub fn text_tool(name: &str, description: &str, grammar: Option<&InputGrammar>) -> Value {
    let about = match grammar {
        None => "The text.".to_owned(),
        Some(InputGrammar::Lark(grammar)) => format!("Text of this grammar:\n{grammar}"),
        Some(InputGrammar::Regex(pattern)) => format!("Text that this regular expression matches: {pattern}"),
    };
    let input = json!({"type": "string", "description": about});
    let parameters = json!({
        "type": "object", "properties": {ARGUMENT: input}, "required": [ARGUMENT], "additionalProperties": false,
    });
    json!({"name": name, "description": description, "parameters": parameters})
}

/// The arguments of a call with this text.
pub fn text_arguments(input: &str) -> String {
    json!({ARGUMENT: input}).to_string()
}

fn lark(source: &str) -> Result<String, GrammarError> {
    let source = text_rules::bounded(source)?;
    if ebnf::is_ebnf(source) { ebnf::to_lark(source).map_err(GrammarError) } else { Ok(source.to_owned()) }
}

/// Anchors at both ends say what holds anyway.
fn unanchored(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let num_escapes = |text: &str| text.bytes().rev().take_while(|byte| *byte == b'\\').count();
    pattern.strip_suffix('$').filter(|rest| num_escapes(rest) % 2 == 0).unwrap_or(pattern)
}

fn spelled(pattern: &str, budget: &mut Budget) -> Result<String, GrammarError> {
    let (quoted, num_states) = quoted_regex(pattern)
        .map_err(|error| GrammarError(format!("the regular expression {:?} {error}", shortened(pattern))))?;
    budget.spend_states(num_states).map_err(|error| GrammarError(error.to_string()))?;
    Ok(quoted)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A grammar's texts and regular expressions, in JSON's spelling.
fn in_json_spelling(source: &str, budget: &mut Budget) -> Result<String, GrammarError> {
    let refused = |what: &str| Err(GrammarError(format!("{what} in the grammar of a tool's input")));
    let (mut result, mut rest) = (String::with_capacity(source.len() * 2), source);
    while let Some(first) = rest.chars().next() {
        let line_end = rest.find('\n').unwrap_or(rest.len());
        let num_bytes = match first {
            '#' => line_end,
            '/' if rest.starts_with("//") => line_end,
            '/' => {
                let (pattern, after) = enclosed(rest)?;
                let (flags, after) = flags(after);
                let pattern = pattern.replace("\\/", "/");
                let pattern = if flags.is_empty() { pattern } else { format!("(?{flags}:{pattern})") };
                result.push_str(&spelled(&pattern, budget)?);
                rest.len() - after.len()
            }
            '"' => {
                let (written, after) = enclosed(rest)?;
                let (pattern, after) = text_pattern(written, after)?;
                // Nothing is spelled as nothing, and is no pattern.
                result.push_str(&if pattern.is_empty() { "\"\"".to_owned() } else { spelled(&pattern, budget)? });
                rest.len() - after.len()
            }
            '%' if rest.starts_with("%import") => {
                import(&rest["%import".len()..line_end], &mut result, budget)?;
                line_end
            }
            '%' if rest.starts_with("%json") => return refused("%json has no place"),
            '%' if rest.starts_with("%regex") => return refused("%regex has no place"),
            '<' => return refused("tokens have no place"),
            _ => {
                result.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[num_bytes..];
    }
    Ok(result)
}

/// What stands between a delimiter and the next one, and what follows.
fn enclosed(text: &str) -> Result<(&str, &str), GrammarError> {
    let (delimiter, inner) = text.split_at(1);
    let mut is_escaped = false;
    for (at, character) in inner.char_indices() {
        match character {
            '\n' => break,
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if inner[at..].starts_with(delimiter) => return Ok((&inner[..at], &inner[at + 1..])),
            _ => {}
        }
    }
    Err(GrammarError(format!("nothing closes the {delimiter} before {:?}", shortened(inner))))
}

/// The flags behind a regular expression or a text, as Rust calls them.
fn flags(text: &str) -> (String, &str) {
    let after = text.trim_start_matches(['i', 'm', 's', 'l', 'u', 'x']);
    // Locales and Unicode are always on.
    let flags = text[..text.len() - after.len()].chars().filter(|flag| !matches!(flag, 'l' | 'u')).collect();
    (flags, after)
}

/// A text, or a range from one character to another, as a regular expression.
fn text_pattern<'t>(written: &str, after: &'t str) -> Result<(String, &'t str), GrammarError> {
    let text = unescaped(written)?;
    if let Some(range) = after.trim_start_matches(' ').strip_prefix("..").map(|range| range.trim_start_matches(' '))
        && range.starts_with('"')
    {
        let (last, after) = enclosed(range)?;
        let last = unescaped(last)?;
        let (mut first, mut last) = (text.chars(), last.chars());
        return match (first.next(), first.next(), last.next(), last.next()) {
            (Some(first), None, Some(last), None) if first <= last => {
                Ok((format!("[\\x{{{:x}}}-\\x{{{:x}}}]", u32::from(first), u32::from(last)), after))
            }
            _ => Err(GrammarError(format!("the range from {text:?} is none"))),
        };
    }
    let (flags, after) = flags(after);
    let pattern = regex_syntax::escape(&text);
    Ok((if flags.contains('i') { format!("(?i:{pattern})") } else { pattern }, after))
}

fn unescaped(written: &str) -> Result<String, GrammarError> {
    serde_json::from_str(&format!("\"{}\"", written.replace('\t', "\\t")))
        .map_err(|_| GrammarError(format!("the text {:?} has an unknown escape", shortened(written))))
}

/// Terminals that grammars import, as Lark's library has them.
const COMMON: &[(&str, &str)] = &[
    ("DIGIT", "[0-9]"),
    ("HEXDIGIT", "[a-fA-F0-9]"),
    ("INT", "[0-9]+"),
    ("SIGNED_INT", "[+-]?[0-9]+"),
    ("DECIMAL", "[0-9]+\\.[0-9]*|\\.[0-9]+"),
    ("FLOAT", "[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\\.[0-9]*|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?"),
    ("NUMBER", "(?:[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?"),
    ("SIGNED_NUMBER", "[+-]?(?:[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?"),
    ("ESCAPED_STRING", "\"(?:[^\"\\\\\\n]|\\\\[^\\n])*\""),
    ("LCASE_LETTER", "[a-z]"),
    ("UCASE_LETTER", "[A-Z]"),
    ("LETTER", "[a-zA-Z]"),
    ("WORD", "[a-zA-Z]+"),
    ("CNAME", "[a-zA-Z_][a-zA-Z0-9_]*"),
    ("WS_INLINE", "[ \\t]+"),
    ("WS", "[ \\t\\f\\r\\n]+"),
    ("CR", "\\r"),
    ("LF", "\\n"),
    ("NEWLINE", "(?:\\r?\\n)+"),
    ("SH_COMMENT", "#[^\\n]*"),
    ("CPP_COMMENT", "//[^\\n]*"),
];

/// Writes what `%import` brings: `common.NAME`, `common.NAME -> OTHER` or `common (NAME, NAME)`.
fn import(line: &str, result: &mut String, budget: &mut Budget) -> Result<(), GrammarError> {
    let line = line.split("//").next().unwrap_or_default().trim();
    let unknown = || GrammarError(format!("%import {} is not known", shortened(line)));
    let names = line.strip_prefix("common").ok_or_else(unknown)?.trim();
    let (names, alias) = match names.split_once("->") {
        Some((name, alias)) => (name.trim(), Some(alias.trim())),
        None => (names, None),
    };
    let names = if let Some(name) = names.strip_prefix('.') {
        vec![name]
    } else {
        let inner = names.strip_prefix('(').and_then(|names| names.strip_suffix(')')).ok_or_else(unknown)?;
        inner.split(',').map(str::trim).collect()
    };
    for name in names {
        let (_, pattern) = COMMON.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
        let pattern = spelled(pattern, budget)?;
        result.extend([alias.unwrap_or(name), ": ", &pattern, "\n"]);
    }
    Ok(())
}

/// Reads the text out of a call's arguments while they come.
///
/// Arguments of another shape, which a model may write where no grammar holds it, are the text themselves.
#[derive(Debug, Default)]
pub struct InputDecoder {
    state: State,
    /// What is not decided yet: the beginning, or an escape.
    held: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Before,
    Inside,
    After,
    Bare,
}

impl InputDecoder {
    /// What more of the arguments says.
    pub fn push(&mut self, arguments: &str) -> String {
        let mut text = String::new();
        for character in arguments.chars() {
            self.step(character, &mut text);
        }
        text
    }

    /// What was held back when the arguments ended.
    pub fn finish(&mut self) -> String {
        match std::mem::replace(&mut self.state, State::After) {
            State::Before | State::Bare => std::mem::take(&mut self.held),
            State::Inside => decoded(&std::mem::take(&mut self.held)),
            State::After => String::new(),
        }
    }

    fn step(&mut self, character: char, text: &mut String) {
        match self.state {
            State::Before => {
                self.held.push(character);
                match opens(&self.held).filter(|_| self.held.len() <= MAX_BEGINNING) {
                    Some(true) => {
                        self.state = State::Inside;
                        self.held.clear();
                    }
                    Some(false) => {}
                    None => {
                        self.state = State::Bare;
                        text.push_str(&std::mem::take(&mut self.held));
                    }
                }
            }
            State::Inside if self.held.is_empty() && character == '"' => self.state = State::After,
            State::Inside if self.held.is_empty() && character != '\\' => text.push(character),
            State::Inside => {
                self.held.push(character);
                if is_whole(&self.held) {
                    text.push_str(&decoded(&std::mem::take(&mut self.held)));
                }
            }
            State::After => {}
            State::Bare => text.push(character),
        }
    }
}

/// Whether arguments begin as they should: wholly, so far, or not at all.
fn opens(text: &str) -> Option<bool> {
    let mut rest = text;
    for part in ["{", "\"input\"", ":", "\""] {
        rest = rest.trim_start();
        if rest.len() < part.len() {
            return part.starts_with(rest).then_some(false);
        }
        rest = rest.strip_prefix(part)?;
    }
    Some(true)
}

/// Whether an escape has all its digits, and a first half its second.
fn is_whole(escape: &str) -> bool {
    let is_first_half = |escape: &str| {
        let unit = u32::from_str_radix(escape.get(2..6).unwrap_or_default(), 16);
        unit.is_ok_and(|unit| (0xd800..0xdc00).contains(&unit))
    };
    match escape.as_bytes() {
        [b'\\'] => false,
        [b'\\', b'u', ..] if escape.len() < 6 => false,
        [b'\\', b'u', ..] if is_first_half(escape) => match &escape.as_bytes()[6..] {
            [] | [b'\\'] => false,
            [b'\\', b'u', ..] => escape.len() >= 12,
            _ => true,
        },
        _ => true,
    }
}

fn decoded(escape: &str) -> String {
    if escape.is_empty() {
        return String::new();
    }
    serde_json::from_str(&format!("\"{escape}\"")).unwrap_or_else(|_| '\u{fffd}'.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelling(source: &str) -> Result<String, GrammarError> {
        in_json_spelling(source, &mut Budget::default())
    }

    #[test]
    fn grammars_are_spelled_as_json_has_it() {
        let source = "start: \"a\\n\\\"\" name LF? // \"comment\n# \"another\nname: /(.+)/i\nC: \"a\"..\"c\"\nE: \"\"\n\
                      %import common.LF\n%import common (WS, INT)\n%import common.NEWLINE -> NL\n%ignore WS";
        let spelled = spelling(source).unwrap();
        for part in
            ["LF: /(?:\\\\n)/", "start: /(?:a\\\\n\\\\\")/ name LF?", "C: /[a-c]/", "E: \"\"", "NL: /", "%ignore WS"]
        {
            assert!(spelled.contains(part), "{part}: {spelled}");
        }
        assert!(!spelled.contains("%import") && !spelled.contains("comment"), "{spelled}");
        for (source, message) in [
            ("start: %json {}", "%json has no place"),
            ("start: <think>", "tokens have no place"),
            ("start: \"abc", "nothing closes"),
            ("start: /a(?=b)/", "(?="),
            ("start: \"\\q\"", "unknown escape"),
            ("%import python.NAME\nstart: NAME", "is not known"),
            ("start: \"z\"..\"a\"", "is none"),
        ] {
            let error = spelling(source).unwrap_err().to_string();
            assert!(error.contains(message), "{source}: {error}");
        }
        assert_eq!((unanchored("^a$"), unanchored("a\\$"), unanchored("a\\\\$")), ("a", "a\\$", "a\\\\"));
    }

    #[test]
    fn text_comes_out_however_it_is_cut() {
        let input = "a\"\\/\n\t\u{1}é\u{1f600}\u{7f}\r end";
        let escaped = "{ \"input\" : \"a\\u0022\\\\\\/\\n\\t\\u0001\\u00e9\\ud83d\\ude00\u{7f}\\r end\" }";
        for arguments in [text_arguments(input), escaped.to_owned()] {
            for size in [1, 2, 3, 7, 1000] {
                let mut decoder = InputDecoder::default();
                let characters: Vec<char> = arguments.chars().collect();
                let mut text: String =
                    characters.chunks(size).map(|part| decoder.push(&part.iter().collect::<String>())).collect();
                text.push_str(&decoder.finish());
                assert_eq!(text, input, "{arguments} by {size}");
            }
        }
        for (arguments, text) in [
            ("*** Begin", "*** Begin"),
            ("{\"other\": 1}", "{\"other\": 1}"),
            ("{\"inp", "{\"inp"),
            ("", ""),
            ("{\"input\":\"cut \\u00", "cut \u{fffd}"),
            ("{\"input\":\"\\ud83dx\"}", "\u{fffd}"),
            (&" ".repeat(100_000), &" ".repeat(100_000)),
        ] {
            let mut decoder = InputDecoder::default();
            assert_eq!(decoder.push(arguments) + &decoder.finish(), text, "{arguments}");
        }
    }
}
