//! Values spelled as Python spells them: `str(value)` and `json.dumps(value)`.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// How deep a value may nest. JSON parsed by `serde_json` stays below 128.
const MAX_DEPTH: usize = 256;
/// The widest indentation. Lines are paid for after they are written, so they must not be huge.
const MAX_INDENT: i64 = 64;
/// Fuel is paid once per so many bytes written, as the engine does it.
const BYTES_PER_FUEL: usize = 64;

/// `str(value)`.
pub(crate) fn python_str(state: &State, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => Speller::spell(state, &Style::Repr, value),
    }
}

/// `repr(value)`.
pub(crate) fn python_repr(state: &State, value: &Value) -> Result<String, Error> {
    Speller::spell(state, &Style::Repr, value)
}

/// `value | tojson`, with the arguments `transformers` gives it.
///
/// `ValueOrKwargs` because more arguments than a function can name may be passed, and because a
/// plain `Value` refuses keyword arguments.
pub(crate) fn to_json(state: &State, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let style = JsonStyle::from_args(&args.into_values())?;
    Speller::spell(state, &Style::Json(style), value)
}

/// Which of Python's two spellings of a value is wanted.
enum Style {
    Repr,
    Json(JsonStyle),
}

/// The arguments of `json.dumps`.
struct JsonStyle {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl JsonStyle {
    /// Reads `(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
    fn from_args(args: &[Value]) -> Result<Self, Error> {
        type Arg = Option<Value>;
        let (ensure_ascii, indent, separators, sort_keys, named) = from_args::<(Arg, Arg, Arg, Arg, Kwargs)>(args)?;
        let pick = |given: Option<Value>, name| match given {
            Some(value) => Ok(Some(value)),
            None => named.get::<Option<Value>>(name),
        };
        let flag = |given, name| Ok::<_, Error>(pick(given, name)?.is_some_and(|v| v.is_true()));
        let ensure_ascii = flag(ensure_ascii, "ensure_ascii")?;
        let sort_keys = flag(sort_keys, "sort_keys")?;
        let indent = match pick(indent, "indent")? {
            Some(value) => Some(indentation(&value)?),
            None => None,
        };
        let (item_separator, key_separator) = match pick(separators, "separators")? {
            Some(pair) => (string_at(&pair, 0)?, string_at(&pair, 1)?),
            // Python leaves no space at the end of a line.
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
        };
        named.assert_all_used()?;
        Ok(Self { ensure_ascii, indent, item_separator, key_separator, sort_keys })
    }
}

/// One level of indentation: `indent` itself, or that many spaces.
fn indentation(indent: &Value) -> Result<String, Error> {
    let text = match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(i64::try_from(indent.clone())?.clamp(0, MAX_INDENT + 1) as usize),
    };
    if text.len() > MAX_INDENT as usize {
        return Err(unsupported("indent is too wide"));
    }
    Ok(text)
}

/// The string at `index` of a pair.
fn string_at(pair: &Value, index: usize) -> Result<String, Error> {
    let item = pair.get_item_by_index(index)?;
    item.as_str().map(str::to_owned).ok_or_else(|| unsupported("separators must be two strings"))
}

/// The error for what Python would refuse with a `TypeError` or `RecursionError`.
pub(crate) fn unsupported(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Writes a value, paying fuel as it goes: a value that shares its parts can be exponentially
/// longer on paper than in memory.
struct Speller<'a, 'template, 'env> {
    state: &'a State<'template, 'env>,
    style: &'a Style,
    out: String,
    /// How much of `out` is paid for.
    paid: usize,
    depth: usize,
}

impl<'a, 'template, 'env> Speller<'a, 'template, 'env> {
    /// Writes the whole of `value`.
    fn spell(state: &'a State<'template, 'env>, style: &'a Style, value: &Value) -> Result<String, Error> {
        let (out, paid, depth) = (String::new(), 0, 0);
        let mut speller = Self { state, style, out, paid, depth };
        speller.value(value)?;
        Ok(speller.out)
    }

    fn value(&mut self, value: &Value) -> Result<(), Error> {
        self.pay()?;
        match (value.kind(), self.style) {
            (ValueKind::None, Style::Json(_)) => self.out.push_str("null"),
            (ValueKind::Bool, Style::Json(_)) => write!(self.out, "{}", value.is_true())?,
            (ValueKind::Number, _) => self.number(value)?,
            (ValueKind::String, _) => self.string(value.as_str().unwrap_or_default())?,
            (ValueKind::Seq | ValueKind::Iterable, _) => self.list(value)?,
            (ValueKind::Map, _) => self.map(value)?,
            (ValueKind::Undefined, Style::Repr) => self.out.push_str("Undefined"),
            (_, Style::Repr) => write!(self.out, "{value}")?,
            (kind, Style::Json(_)) => {
                return Err(unsupported(format!("{kind} is not JSON serializable")));
            }
        }
        Ok(())
    }

    /// Pays for one value and for what was written since the last payment.
    fn pay(&mut self) -> Result<(), Error> {
        let unpaid = (self.out.len() - self.paid) / BYTES_PER_FUEL;
        self.paid += unpaid * BYTES_PER_FUEL;
        self.state.consume_fuel(1 + unpaid as u64)
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            return Ok(write!(self.out, "{value}")?);
        }
        let number = f64::try_from(value.clone())?;
        let json = matches!(self.style, Style::Json(_));
        let text = match (json, number) {
            (_, number) if number.is_finite() => finite(number),
            (false, _) => number.to_string().to_lowercase(),
            (true, f64::INFINITY) => "Infinity".to_owned(),
            (true, f64::NEG_INFINITY) => "-Infinity".to_owned(),
            (true, _) => "NaN".to_owned(),
        };
        self.out.push_str(&text);
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        match self.style {
            Style::Repr => write_repr(&mut self.out, text)?,
            Style::Json(style) => write_json_string(&mut self.out, text, style.ensure_ascii)?,
        }
        Ok(())
    }

    fn list(&mut self, value: &Value) -> Result<(), Error> {
        let tuple = value.is_tuple() && matches!(self.style, Style::Repr);
        self.open(if tuple { '(' } else { '[' })?;
        let mut count = 0;
        for item in value.try_iter()?.checked() {
            self.separate(count == 0);
            self.value(&item?)?;
            count += 1;
        }
        if tuple && count == 1 {
            self.out.push(',');
        }
        self.close(if tuple { ')' } else { ']' }, count == 0);
        Ok(())
    }

    fn map(&mut self, value: &Value) -> Result<(), Error> {
        self.open('{')?;
        let mut keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
        if matches!(self.style, Style::Json(style) if style.sort_keys) {
            keys.sort();
        }
        for (index, key) in keys.iter().enumerate() {
            self.separate(index == 0);
            self.key(key)?;
            self.value(&value.get_item(key)?)?;
        }
        self.close('}', keys.is_empty());
        Ok(())
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        let Style::Json(style) = self.style else {
            self.value(key)?;
            self.out.push_str(": ");
            return Ok(());
        };
        match key.kind() {
            ValueKind::String => self.value(key)?,
            // JSON has string keys only: Python quotes the spelling of these.
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.out.push('"');
                self.value(key)?;
                self.out.push('"');
            }
            kind => return Err(unsupported(format!("keys must not be {kind}"))),
        }
        self.out.push_str(&style.key_separator);
        Ok(())
    }

    fn open(&mut self, bracket: char) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(unsupported("value is nested too deeply"));
        }
        self.depth += 1;
        self.out.push(bracket);
        Ok(())
    }

    fn close(&mut self, bracket: char, empty: bool) {
        self.depth -= 1;
        if !empty {
            self.line();
        }
        self.out.push(bracket);
    }

    /// Starts an item.
    fn separate(&mut self, first: bool) {
        if !first {
            self.out.push_str(match self.style {
                Style::Repr => ", ",
                Style::Json(style) => &style.item_separator,
            });
        }
        self.line();
    }

    /// Starts an indented line, if there is indentation.
    fn line(&mut self) {
        let Style::Json(style) = self.style else {
            return;
        };
        if let Some(indent) = &style.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(self.depth));
        }
    }
}

/// `repr(float)`: the shortest digits that read back, with an exponent below 1e-4 and from 1e16.
fn finite(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or_default() {
        -4..16 => format!("{number:?}"),
        exponent => format!("{mantissa}e{exponent:+03}"),
    }
}

/// `repr(str)`: single quotes unless that means escaping, and no unprintable characters.
fn write_repr(out: &mut String, text: &str) -> std::fmt::Result {
    let double = text.contains('\'') && !text.contains('"');
    let quote = if double { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => write!(out, "\\{c}")?,
            c if is_printable(c) => out.push(c),
            c if c <= '\u{ff}' => write!(out, "\\x{:02x}", u32::from(c))?,
            c if c <= '\u{ffff}' => write!(out, "\\u{:04x}", u32::from(c))?,
            c => write!(out, "\\U{:08x}", u32::from(c))?,
        }
    }
    out.push(quote);
    Ok(())
}

/// `str.isprintable`. Rust's own escaping has the same rule, with an exception for combining
/// characters at the start of a string, hence the letter before it.
fn is_printable(c: char) -> bool {
    let mut text = [b'a'; 5];
    c.encode_utf8(&mut text[1..]);
    match std::str::from_utf8(&text[..=c.len_utf8()]) {
        Ok(text) => matches!(c, '"' | '\'') || text.escape_debug().nth(1) == Some(c),
        Err(_) => false,
    }
}

/// The string of `json.dumps`.
fn write_json_string(out: &mut String, text: &str, ensure_ascii: bool) -> std::fmt::Result {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..'\u{20}' => write!(out, "\\u{:04x}", u32::from(c))?,
            '\u{7f}'.. if ensure_ascii => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}
