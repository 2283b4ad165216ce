//! What is wrong with a body, in words of its sender's: no type of ours and no term of the parser's is ever named.

use std::fmt::{self, Display, Write as _};

use serde::de::{Error, Expected, Unexpected};

/// Longest piece of a request that a message repeats.
const MAX_ECHO: usize = 100;

/// Something wrong at some place.
#[derive(Debug)]
pub struct JsonError {
    /// The field, once it is known.
    pub path: Option<String>,
    /// A field inside of it that is missing or there twice.
    pub field: Option<String>,
    /// What is wrong, such as "must be a list, not null".
    pub message: String,
    /// The body is no JSON at all; `path` then tells nothing.
    pub is_syntax: bool,
}

impl JsonError {
    /// About a value whose place is not known yet.
    pub fn value(message: impl Into<String>) -> Self {
        Self { path: None, field: None, message: message.into(), is_syntax: false }
    }

    /// From the parser, which by itself finds only what is no JSON and numbers that no type holds.
    pub fn parser(text: &str) -> Self {
        let (what, place) = text.rsplit_once(" at line ").unwrap_or((text, ""));
        if what == "number out of range" {
            return Self::value("is a number that is too large");
        }
        let mut message = syntax_in_words(what).to_owned();
        if let Some((line, column)) = place.split_once(" column ") {
            write!(message, " (line {line}, column {column})").expect("writing to a String succeeds");
        }
        Self { is_syntax: true, ..Self::value(message) }
    }

    fn about(field: &str, message: &str) -> Self {
        Self { field: Some(field.to_owned()), ..Self::value(message) }
    }

    /// The same, about a value at this place, unless it was said before.
    #[must_use]
    pub fn at(mut self, path: impl FnOnce() -> String) -> Self {
        if self.path.is_none() {
            let mut path = path();
            if let Some(field) = self.field.take() {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&field);
            }
            self.path = Some(path);
        }
        self
    }
}

impl std::error::Error for JsonError {}

impl Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for JsonError {
    fn custom<T: Display>(message: T) -> Self {
        Self::value(message.to_string())
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::value(format!("must be {}, not {}", expectation(&expected.to_string()), in_words(found)))
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::value(format!("must be {}, not {length} values", expectation(&expected.to_string())))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::value(format!("must be {}, not {:?}", one_of(expected), shorten(variant)))
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self::about(&shorten(field), "is not known")
    }

    fn missing_field(field: &'static str) -> Self {
        Self::about(field, "is required")
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::about(field, "is given twice")
    }
}

/// The names of an enumeration, as a choice.
pub fn one_of(names: &[&str]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let before = match index {
            0 => "",
            _ if index + 1 == names.len() => " or ",
            _ => ", ",
        };
        write!(text, "{before}{name:?}").expect("writing to a String succeeds");
    }
    text
}

/// Types that the library names in its own terms.
fn expectation(expected: &str) -> &str {
    match expected {
        "a sequence" => "a list",
        "a map" => "an object",
        "a boolean" => "true or false",
        "f32" | "f64" => "a number",
        "unit" => "null",
        _ if expected.starts_with("struct ") => "an object",
        _ => expected,
    }
}

/// What was found, without repeating texts.
fn in_words(found: Unexpected) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => float_in_words(value),
        Unexpected::Char(_) | Unexpected::Str(_) | Unexpected::Bytes(_) => "a string".to_owned(),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        _ => "what was sent".to_owned(),
    }
}

/// A number without its hundreds of zeros.
pub fn float_in_words(value: f64) -> String {
    if value.abs() < 1e16 && value.abs() > 1e-6 || value == 0.0 { value.to_string() } else { format!("{value:e}") }
}

/// The parser's findings in plain words.
fn syntax_in_words(what: &str) -> &str {
    match what {
        "EOF while parsing a list" => "it ends within a list",
        "EOF while parsing an object" => "it ends within an object",
        "EOF while parsing a string" => "it ends within a string",
        "EOF while parsing a value" => "it ends where a value should stand",
        "expected `:`" => "a colon is missing after a name",
        "expected `,` or `]`" => "a comma or the end of a list is missing",
        "expected `,` or `}`" => "a comma or the end of an object is missing",
        "expected value" | "expected ident" => "no value can begin like this",
        "invalid escape" | "unexpected end of hex escape" => "an escape in a string is wrong",
        "invalid number" => "a number is written wrongly",
        "invalid unicode code point" => "a string is not valid UTF-8",
        "lone leading surrogate in hex escape" => "an escape in a string is half of a pair",
        "control character (\\u0000-\\u001F) found while parsing a string" => {
            "a string holds a control character that is not escaped"
        }
        "key must be a string" => "the names in an object must be strings in double quotes",
        "trailing comma" => "a comma stands before the end of a list or an object",
        "trailing characters" => "more follows after its end",
        "recursion limit exceeded" => "lists and objects are nested too deeply",
        _ => "it cannot be read",
    }
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_ECHO / 4).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
