//! Grammars that clients write: regular expressions, and Lark with JSON schemas in it.

use serde_json::Value;

use crate::GrammarError;
use crate::json_schema::{self, Budget, Enforcement, Root};

/// Longest grammar of a client, in bytes.
const MAX_SOURCE_BYTES: usize = 128 << 10;
/// Most schemas in one grammar.
const MAX_SCHEMAS: usize = 64;

/// A grammar that is neither empty nor too long.
///
/// # Errors
/// When it is.
pub(crate) fn bounded(source: &str) -> Result<&str, GrammarError> {
    match source.len() {
        0 => Err(GrammarError("must not be empty".to_owned())),
        length if length > MAX_SOURCE_BYTES => {
            Err(GrammarError(format!("has {length} bytes, at most {MAX_SOURCE_BYTES} are taken")))
        }
        _ => Ok(source),
    }
}

/// A regular expression between slashes, as Lark has it.
pub(crate) fn regex(pattern: &str) -> String {
    let mut result = String::from("/");
    let mut escaped = false;
    for character in pattern.chars() {
        match character {
            '/' if !escaped => result.push_str("\\/"),
            '\n' => result.push_str(if escaped { "n" } else { "\\n" }),
            '\r' => result.push_str(if escaped { "r" } else { "\\r" }),
            _ => result.push(character),
        }
        escaped = character == '\\' && !escaped;
    }
    result + "/"
}

/// Writes the schemas behind `%json` as rules of our own: they are as exact there as anywhere.
///
/// # Errors
/// When a schema cannot be enforced.
pub(crate) fn with_schemas_written(source: &str) -> Result<String, GrammarError> {
    let (mut result, mut rest, mut count) = (String::new(), source, 0);
    let mut budget = Budget::default();
    while let Some(at) = next_schema(rest) {
        count += 1;
        if count > MAX_SCHEMAS {
            return Err(GrammarError(format!("has more than {MAX_SCHEMAS} schemas")));
        }
        let (before, behind) = rest.split_at(at);
        let behind = &behind[KEYWORD.len()..];
        let mut values = serde_json::Deserializer::from_str(behind).into_iter::<Value>();
        let schema = values.next().and_then(Result::ok);
        let schema = schema.ok_or_else(|| GrammarError("has %json without a JSON schema behind it".to_owned()))?;
        let rules = json_schema::rules(&schema, Enforcement::Strict, Root::Any, "", &mut budget)
            .map_err(|error| GrammarError(format!("in the schema behind %json: {error}")))?;
        result.push_str(before);
        result.extend(["%lark {\nstart: ", &rules.start, "\n", &rules.lines.join("\n"), "\n}"]);
        rest = &behind[values.byte_offset()..];
    }
    Ok(result + rest)
}

const KEYWORD: &str = "%json";

/// Where the keyword stands next, outside of strings, regular expressions and comments.
fn next_schema(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' if text[at..].starts_with(KEYWORD) => return Some(at),
            b'#' => at += line(&bytes[at..]),
            b'/' if bytes.get(at + 1) == Some(&b'/') => at += line(&bytes[at..]),
            quote @ (b'"' | b'/') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote && bytes[at] != b'\n' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
    None
}

fn line(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_found_where_they_are_meant() {
        let text = "start: \"%json\" /%json\\// // %json\n# %json\nx: %json {\"const\": 1}\ny: \"b\"";
        let written = with_schemas_written(text).unwrap();
        assert_eq!(written.matches("%json").count(), 4);
        assert!(written.contains("x: %lark {\nstart: \"1\"\n\n}\ny: \"b\""), "{written}");
        assert!(with_schemas_written("start: %json nothing").is_err());
        let refused = with_schemas_written("start: %json {\"not\": {}}").unwrap_err();
        assert!(refused.to_string().contains("not cannot be enforced"), "{refused}");
        assert_eq!(regex("a/b\\/c\nd"), "/a\\/b\\/c\\nd/");
    }
}
