//! Methods of Python's values that templates call and the engine does not know.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use crate::python_value::{python_str, unsupported};

/// Calls `value.name(args)`; what is not here, pycompat has.
pub(crate) fn call_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let known = match (value.as_str(), value.kind()) {
        (Some(text), _) => call_on_text(state, text, name, args)?,
        (None, ValueKind::Seq | ValueKind::Iterable) if name == "index" => Some(index_of(value, args)?),
        (None, ValueKind::Map) if name == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    };
    match known {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn call_on_text(state: &mut State, text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Value::from(rest.unwrap_or(text))
        }
        "partition" => {
            let (separator,) = from_args(args)?;
            let parts = text.split_once(separator_of(separator)?).map(|(head, tail)| [head, separator, tail]);
            tuple(parts.unwrap_or([text, "", ""]))
        }
        "rpartition" => {
            let (separator,) = from_args(args)?;
            let parts = text.rsplit_once(separator_of(separator)?).map(|(head, tail)| [head, separator, tail]);
            tuple(parts.unwrap_or(["", "", text]))
        }
        "rsplit" => return rsplit(text, args),
        "find" | "rfind" | "index" | "rindex" => find(text, name, args)?,
        "count" => {
            let (part, range) = search_arguments(args)?;
            let (_, text) = slice(text, range);
            let found = if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() };
            Value::from(found)
        }
        "startswith" | "endswith" if args.len() > 1 => {
            let (parts, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let (_, text) = slice(text, (start, end));
            pycompat::unknown_method_callback(state, &Value::from(text), name, std::slice::from_ref(parts))?
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let zeros = padding(state, text, width, '0')?;
            Value::from(format!("{sign}{zeros}{digits}"))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            let padding = padding(state, text, width, fill.unwrap_or(' '))?;
            Value::from(match name {
                "ljust" => format!("{text}{padding}"),
                "rjust" => format!("{padding}{text}"),
                _ => centered(text, &padding, width),
            })
        }
        "join" => join(state, text, args)?,
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "swapcase" => Value::from(text.chars().map(swap_case).collect::<String>()),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())),
        "isidentifier" => {
            let starts = text.starts_with(|c: char| c == '_' || c.is_alphabetic());
            Value::from(starts && text.chars().all(|c| c == '_' || c.is_alphanumeric()))
        }
        _ => return Ok(None),
    }))
}

fn tuple(parts: [&str; 3]) -> Value {
    Value::from(Tuple::from(parts.map(Value::from)))
}

fn separator_of(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() { Err(unsupported("empty separator")) } else { Ok(separator) }
}

/// `rsplit(separator=None, maxsplit=-1)`, with whitespace for no separator.
fn rsplit(text: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let (separator, limit, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let limit = limit.or(named.get("maxsplit")?).and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    if let Some(separator) = separator.or(named.get("sep")?) {
        parts.extend(text.rsplitn(limit.saturating_add(1), separator_of(separator)?));
    } else {
        let mut rest = text.trim_end();
        while !rest.is_empty() {
            let start = rest.rfind(char::is_whitespace).filter(|_| parts.len() < limit);
            let Some(start) = start else {
                parts.push(rest);
                break;
            };
            let word = rest[start..].trim_start();
            parts.push(word);
            rest = rest[..rest.len() - word.len()].trim_end();
        }
    }
    Ok(Some(parts.into_iter().rev().map(Value::from).collect()))
}

type Range = (Option<i64>, Option<i64>);

/// `(part, start=None, end=None)`.
fn search_arguments(args: &[Value]) -> Result<(&str, Range), Error> {
    let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    Ok((part, (start, end)))
}

/// Python's `text[start:end]`, and the number of characters before it.
fn slice(text: &str, (start, end): Range) -> (usize, &str) {
    if (start, end) == (None, None) {
        return (0, text);
    }
    let length = text.chars().count() as i64;
    let place = |at: i64| (if at < 0 { (at + length).max(0) } else { at.min(length) }) as usize;
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    if start >= end { (start, "") } else { (start, &text[byte(start)..byte(end)]) }
}

fn find(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (part, range) = search_arguments(args)?;
    let (before, text) = slice(text, range);
    let found = if name.starts_with('r') { text.rfind(part) } else { text.find(part) };
    match found {
        Some(byte) => Ok(Value::from(before + text[..byte].chars().count())),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(unsupported("substring not found")),
    }
}

/// `list.index(item)`.
fn index_of(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (item, start): (&Value, Option<usize>) = from_args(args)?;
    for (index, candidate) in value.try_iter()?.enumerate().skip(start.unwrap_or(0)) {
        if candidate == *item {
            return Ok(Value::from(index));
        }
    }
    Err(unsupported("the value is not in the list"))
}

/// What `text` lacks of `width` characters, paid for.
pub(crate) fn padding(state: &State, text: &str, width: i64, fill: char) -> Result<String, Error> {
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    state.consume_fuel(missing as u64 / 16)?;
    Ok(std::iter::repeat_n(fill, missing).collect())
}

/// `text` amid its padding. Python puts the odd character to the left where the width is odd.
pub(crate) fn centered(text: &str, padding: &str, width: i64) -> String {
    let missing = padding.chars().count();
    let left = missing / 2 + usize::from(missing % 2 == 1 && width % 2 == 1);
    let at = padding.char_indices().nth(left).map_or(padding.len(), |(byte, _)| byte);
    format!("{}{text}{}", &padding[..at], &padding[at..])
}

/// `separator.join(values)`; Python takes texts only, and numbers spelled its way do no harm.
fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (values, Rest(more)): (&Value, Rest<Value>) = from_args(args)?;
    if !more.is_empty() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut out = String::new();
    for (index, value) in values.try_iter()?.checked().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        let value = python_str(state, &value?)?;
        state.consume_fuel(((separator.len() + value.len()) / 64) as u64)?;
        out.push_str(&value);
    }
    Ok(Value::from(out))
}

fn swap_case(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}
