//! Jinja's filters that the engine lacks or has other rules for.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, Value, filters};

use crate::jinja_source::MOD;
use crate::python_format::{modulo, percent};
use crate::python_methods::{centered, padding};
use crate::python_value::{python_str, to_json, unsupported};
use crate::text_wrap::{Wrap, wrap};

/// Adds all of them.
pub(crate) fn add(env: &mut Environment) {
    env.add_filter("tojson", to_json);
    env.add_filter("from_json", from_json);
    env.add_filter("string", to_string);
    for name in ["escape", "e", "forceescape"] {
        env.add_filter(name, escape);
    }
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("format", format);
    env.add_filter("truncate", truncate);
    env.add_filter("wordwrap", wordwrap);
    env.add_filter("wordcount", wordcount);
    env.add_filter("center", center);
    env.add_filter("urlencode", urlencode);
    env.add_filter("random", random);
    env.add_filter("xmlattr", xmlattr);
    env.add_filter(MOD, modulo);
}

/// Arguments that may be given by place or by name.
struct Given {
    placed: Vec<Value>,
    named: Kwargs,
}

impl Given {
    fn new(args: Rest<ValueOrKwargs>) -> Result<Self, Error> {
        let (Rest(placed), named): (Rest<Value>, Kwargs) = from_args(&args.into_values())?;
        Ok(Self { placed, named })
    }

    fn value(&self, place: usize, name: &str) -> Result<Option<Value>, Error> {
        let given = match self.placed.get(place) {
            Some(value) => Some(value.clone()),
            None => self.named.get(name)?,
        };
        Ok(given.filter(|value| !value.is_undefined() && !value.is_none()))
    }

    fn number(&self, place: usize, name: &str, default: i64) -> Result<i64, Error> {
        self.value(place, name)?.map_or(Ok(default), i64::try_from)
    }

    fn flag(&self, place: usize, name: &str, default: bool) -> Result<bool, Error> {
        Ok(self.value(place, name)?.map_or(default, |value| value.is_true()))
    }

    fn text(&self, place: usize, name: &str, default: &str) -> Result<String, Error> {
        let Some(value) = self.value(place, name)? else { return Ok(default.to_owned()) };
        value.as_str().map(str::to_owned).ok_or_else(|| unsupported(format!("{name} must be a string")))
    }
}

/// `text | from_json`.
fn from_json(text: &str) -> Result<Value, Error> {
    serde_json::from_str::<serde_json::Value>(text)
        .map(|json| Value::from(minijinja::value::Serde(json)))
        .map_err(|err| unsupported(format!("from_json: {err}")))
}

/// `value | string`.
fn to_string(state: &State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    python_str(state, value).map(Value::from)
}

/// `value | escape`, with the entities of Python's `markupsafe`.
fn escape(state: &State, value: &Value) -> Result<String, Error> {
    Ok(python_str(state, value)?
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;"))
}

/// `value | int(default=0, base=10)`: what is no number is the default.
fn int(state: &State, value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or_else(|| Value::from(0));
    filters::int(state, &trimmed(value), Some(default), base, named)
}

/// `value | float(default=0.0)`: what is no number is the default.
fn float(state: &State, value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or_else(|| Value::from(0.0));
    filters::float(state, &trimmed(value), Some(default), named)
}

fn trimmed(value: &Value) -> Value {
    value.as_str().map_or_else(|| value.clone(), |text| Value::from(text.trim()))
}

/// `'%s' | format(value, …)`, which is `'%s' % (value, …)`.
fn format(state: &State, format: &str, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let values = args.into_values();
    match values.as_slice() {
        [named] if named.is_kwargs() => percent(state, format, named),
        _ => percent(state, format, &Value::from(minijinja::value::Tuple::from(values))),
    }
}

/// `text | truncate(length=255, killwords=false, end='...', leeway=5)`.
fn truncate(state: &State, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let given = Given::new(args)?;
    let length = given.number(0, "length", 255)?;
    let (kills_words, end) = (given.flag(1, "killwords", false)?, given.text(2, "end", "...")?);
    let leeway = given.number(3, "leeway", 5)?;
    let text = python_str(state, value)?;
    if text.chars().count() as i64 <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept = usize::try_from(length - end.chars().count() as i64)
        .map_err(|_| unsupported("the length of truncate must be at least that of its end"))?;
    let cut: String = text.chars().take(kept).collect();
    let words = if kills_words { cut.as_str() } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(head, _)| head) };
    Ok(format!("{words}{end}"))
}

/// `text | wordwrap(width=79, break_long_words=true, wrapstring='\n', break_on_hyphens=true)`.
fn wordwrap(state: &State, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let given = Given::new(args)?;
    let width = usize::try_from(given.number(0, "width", 79)?).ok().filter(|width| *width > 0);
    let options = Wrap {
        width: width.ok_or_else(|| unsupported("the width of wordwrap must be positive"))?,
        break_long_words: given.flag(1, "break_long_words", true)?,
        break_on_hyphens: given.flag(3, "break_on_hyphens", true)?,
    };
    let newline = given.text(2, "wrapstring", "\n")?;
    let text = python_str(state, value)?;
    let mut lines = Vec::new();
    for line in text.lines() {
        // A word longer than a line is copied for each line that it takes.
        let length = line.len() as u64;
        state.consume_fuel(
            length + newline.len() as u64 + length.saturating_mul(length) / (64 * options.width as u64),
        )?;
        lines.push(wrap(line, &options).join(&newline));
    }
    Ok(lines.join(&newline))
}

/// `text | wordcount`.
fn wordcount(state: &State, value: &Value) -> Result<usize, Error> {
    let text = python_str(state, value)?;
    let words = text.split(|c: char| c != '_' && !c.is_alphanumeric());
    Ok(words.filter(|word| !word.is_empty()).count())
}

/// `text | center(width=80)`.
fn center(state: &State, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let width = Given::new(args)?.number(0, "width", 80)?;
    let text = python_str(state, value)?;
    let padding = padding(state, &text, width, ' ')?;
    Ok(centered(&text, &padding, width))
}

/// `value | urlencode`: a text, or the pairs of a query.
fn urlencode(state: &State, value: &Value) -> Result<String, Error> {
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map => {
            value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect::<Result<_, Error>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => value
            .try_iter()?
            .map(|pair| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?)))
            .collect::<Result<_, Error>>()?,
        _ => return Ok(quoted(&python_str(state, value)?, "/")),
    };
    let mut query = Vec::new();
    for (key, value) in pairs {
        let [key, value] =
            [key, value].map(|part| python_str(state, &part).map(|part| quoted(&part, "").replace("%20", "+")));
        query.push(format!("{}={}", key?, value?));
    }
    Ok(query.join("&"))
}

/// Python's `urllib.parse.quote`.
fn quoted(text: &str, safe: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) || safe.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // a String takes everything
        }
    }
    out
}

/// `list | random`. Always the same item, the middle one: the same request must give the same prompt.
fn random(value: &Value) -> Result<Value, Error> {
    let items: Vec<Value> = match value.as_str() {
        Some(text) => text.chars().map(Value::from).collect(),
        None => value.try_iter()?.collect(),
    };
    Ok(items.get(items.len() / 2).cloned().unwrap_or_default())
}

/// `mapping | xmlattr(autospace=true)`.
fn xmlattr(state: &State, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let begins_with_space = Given::new(args)?.flag(0, "autospace", true)?;
    let mut attributes = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let key = python_str(state, &key)?;
        if key.contains([' ', '\t', '\n', '\r', '\u{c}', '/', '>', '=']) {
            return Err(unsupported(format!("invalid character in attribute name: {key:?}")));
        }
        attributes.push(format!("{}=\"{}\"", escape(state, &Value::from(key))?, escape(state, &item)?));
    }
    let text = attributes.join(" ");
    Ok(if begins_with_space && !text.is_empty() { format!(" {text}") } else { text })
}
