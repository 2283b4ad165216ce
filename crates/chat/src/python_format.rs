//! Python's `%`: the remainder of numbers, and the formatting of text.

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use crate::python_value::{python_repr, python_str, unsupported};

/// The most digits behind a point. Lines are paid for by width, digits are not.
const MAX_PRECISION: usize = 1000;

/// `left % right`.
pub(crate) fn modulo(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    match left.as_str() {
        Some(format) => percent(state, format, right).map(Value::from),
        None => remainder(left, right),
    }
}

/// The remainder with the sign of the divisor.
fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    let bad = || unsupported(format!("unsupported operands for %: {} and {}", left.kind(), right.kind()));
    if ![left, right].iter().all(|value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool)) {
        return Err(bad());
    }
    if let (Ok(left), Ok(right)) = (whole(left), whole(right)) {
        let rest = left.checked_rem(right).ok_or_else(|| unsupported("modulo by zero"))?;
        return Ok(Value::from(if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest }));
    }
    let (left, right) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if right == 0.0 {
        return Err(unsupported("float modulo by zero"));
    }
    let rest = left % right;
    Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest }))
}

/// A whole number that is not written as a float.
fn whole(value: &Value) -> Result<i128, Error> {
    match value.kind() {
        ValueKind::Bool => Ok(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()),
        kind => Err(unsupported(format!("a whole number is required, not {kind}"))),
    }
}

/// `format % values`: one value, a tuple of values, or a mapping for `%(name)s`.
pub(crate) fn percent(state: &State, format: &str, values: &Value) -> Result<String, Error> {
    let mut arguments = Arguments::new(values)?;
    let (mut out, mut rest) = (String::new(), format);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let (spec, after) = Spec::read(&rest[at + 1..], &mut arguments)?;
        rest = after;
        state.consume_fuel(4 + (spec.width / 64) as u64)?;
        if spec.conversion == '%' {
            out.push('%');
            continue;
        }
        let value = match spec.name {
            Some(name) => arguments.named(name)?,
            None => arguments.next()?,
        };
        spec.write(state, &value, &mut out)?;
    }
    out.push_str(rest);
    arguments.finish()?;
    Ok(out)
}

/// What is formatted.
struct Arguments<'a> {
    values: &'a Value,
    list: Option<Vec<Value>>,
    num_taken: usize,
}

impl<'a> Arguments<'a> {
    fn new(values: &'a Value) -> Result<Self, Error> {
        let list = if values.is_tuple() { Some(values.try_iter()?.collect()) } else { None };
        Ok(Self { values, list, num_taken: 0 })
    }

    fn next(&mut self) -> Result<Value, Error> {
        self.num_taken += 1;
        let value = match &self.list {
            Some(list) => list.get(self.num_taken - 1).cloned(),
            None => (self.num_taken == 1).then(|| self.values.clone()),
        };
        value.ok_or_else(|| unsupported("not enough arguments for format string"))
    }

    fn named(&mut self, name: &str) -> Result<Value, Error> {
        if self.values.kind() != ValueKind::Map {
            return Err(unsupported("format requires a mapping"));
        }
        let value = self.values.get_attr(name)?;
        if value.is_undefined() { Err(unsupported(format!("no value for {name:?}"))) } else { Ok(value) }
    }

    /// Python refuses values that nothing asked for, but for a mapping.
    fn finish(&self) -> Result<(), Error> {
        let num_values = match &self.list {
            Some(list) => list.len(),
            None if matches!(self.values.kind(), ValueKind::Map | ValueKind::Seq) => 0,
            None => 1,
        };
        if self.num_taken < num_values {
            return Err(unsupported("not all arguments converted during string formatting"));
        }
        Ok(())
    }
}

/// `%(name)-08.3f`, read.
#[derive(Default)]
struct Spec<'a> {
    name: Option<&'a str>,
    is_left: bool,
    is_zero_padded: bool,
    is_alternate: bool,
    sign: &'static str,
    width: usize,
    precision: Option<usize>,
    conversion: char,
}

impl<'a> Spec<'a> {
    /// What follows a `%`, and what follows that.
    fn read(text: &'a str, arguments: &mut Arguments) -> Result<(Self, &'a str), Error> {
        let (mut spec, mut rest) = (Self::default(), text);
        if let Some(inner) = rest.strip_prefix('(') {
            let (name, after) = inner.split_once(')').ok_or_else(|| unsupported("incomplete format key"))?;
            (spec.name, rest) = (Some(name), after);
        }
        while let Some(flag @ ('-' | '0' | '#' | '+' | ' ')) = rest.chars().next() {
            match flag {
                '-' => spec.is_left = true,
                '0' => spec.is_zero_padded = true,
                '#' => spec.is_alternate = true,
                '+' => spec.sign = "+",
                _ if spec.sign.is_empty() => spec.sign = " ",
                _ => {}
            }
            rest = &rest[1..];
        }
        let (width, after) = number(rest, arguments)?;
        spec.is_left |= width < 0;
        (spec.width, rest) = (width.unsigned_abs() as usize, after);
        if let Some(after) = rest.strip_prefix('.') {
            let (precision, after) = number(after, arguments)?;
            (spec.precision, rest) = (Some(precision.max(0) as usize), after);
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        spec.conversion = rest.chars().next().ok_or_else(|| unsupported("incomplete format"))?;
        rest = &rest[spec.conversion.len_utf8()..];
        Ok((spec, rest))
    }

    fn write(&self, state: &State, value: &Value, out: &mut String) -> Result<(), Error> {
        match self.conversion {
            's' => self.pad_text(&python_str(state, value)?, out),
            'r' | 'a' => self.pad_text(&python_repr(state, value)?, out),
            'c' => self.pad_text(&character(value)?, out),
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => self.write_whole(value, out)?,
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => self.write_float(value, out)?,
            other => return Err(unsupported(format!("unsupported format character {other:?}"))),
        }
        Ok(())
    }

    fn write_whole(&self, value: &Value, out: &mut String) -> Result<(), Error> {
        let is_decimal = matches!(self.conversion, 'd' | 'i' | 'u');
        let number = match whole(value) {
            // Python cuts floats off for decimals only.
            Err(_) if is_decimal && value.kind() == ValueKind::Number => f64::try_from(value.clone())?.trunc() as i128,
            number => number?,
        };
        let digits = number.unsigned_abs();
        let (prefix, digits) = match self.conversion {
            'x' => ("0x", format!("{digits:x}")),
            'X' => ("0X", format!("{digits:X}")),
            'o' => ("0o", format!("{digits:o}")),
            _ => ("", digits.to_string()),
        };
        let num_zeros = self.precision.unwrap_or(0).min(MAX_PRECISION).saturating_sub(digits.len());
        let digits = "0".repeat(num_zeros) + &digits;
        self.pad_number(number < 0, if self.is_alternate { prefix } else { "" }, &digits, out);
        Ok(())
    }

    fn write_float(&self, value: &Value, out: &mut String) -> Result<(), Error> {
        if !matches!(value.kind(), ValueKind::Number | ValueKind::Bool) {
            return Err(unsupported(format!("a number is required, not {}", value.kind())));
        }
        let number = whole(value).map(|number| number as f64).or_else(|_| f64::try_from(value.clone()))?;
        let precision = self.precision.unwrap_or(6).min(MAX_PRECISION);
        let digits = match (number.abs(), self.conversion.to_ascii_lowercase()) {
            (size, _) if !size.is_finite() => size.to_string().to_lowercase(),
            (size, 'f') => format!("{size:.precision$}"),
            (size, 'e') => scientific(size, precision),
            (size, _) => self.general(size, precision.max(1)),
        };
        let digits = if self.conversion.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
        self.pad_number(number.is_sign_negative(), "", &digits, out);
        Ok(())
    }

    /// `%g`: so many digits, with an exponent where that is shorter, without zeros at the end.
    fn general(&self, size: f64, precision: usize) -> String {
        let exponential = scientific(size, precision - 1);
        let (mantissa, exponent) = exponential.split_once('e').unwrap_or((&exponential, "+00"));
        let trim = |digits: &str| {
            let keeps = self.is_alternate || !digits.contains('.');
            if keeps { digits.to_owned() } else { digits.trim_end_matches('0').trim_end_matches('.').to_owned() }
        };
        match exponent.parse::<i64>().unwrap_or(0) {
            at @ -4.. if at < precision as i64 => {
                let digits = (precision as i64 - 1 - at) as usize;
                trim(&format!("{size:.digits$}"))
            }
            _ => format!("{}e{exponent}", trim(mantissa)),
        }
    }

    fn pad_text(&self, text: &str, out: &mut String) {
        let cut: String = match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        };
        let padding = " ".repeat(self.width.saturating_sub(cut.chars().count()));
        out.push_str(&if self.is_left { cut + &padding } else { padding + &cut });
    }

    fn pad_number(&self, is_negative: bool, prefix: &str, digits: &str, out: &mut String) {
        let sign = if is_negative { "-" } else { self.sign };
        let missing = self.width.saturating_sub(sign.len() + prefix.len() + digits.len());
        let (before, zeros, after) = match (self.is_left, self.is_zero_padded) {
            (true, _) => (0, 0, missing),
            (false, true) => (0, missing, 0),
            (false, false) => (missing, 0, 0),
        };
        let parts = [&" ".repeat(before), sign, prefix, &"0".repeat(zeros), digits, &" ".repeat(after)];
        out.extend(parts);
    }
}

/// A width or precision: digits, or `*` for the next value.
fn number<'a>(text: &'a str, arguments: &mut Arguments) -> Result<(i64, &'a str), Error> {
    if let Some(rest) = text.strip_prefix('*') {
        return Ok((i64::try_from(arguments.next()?)?, rest));
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let digits = &text[..end];
    let number = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| unsupported("width too big"))? };
    Ok((number, &text[end..]))
}

/// `%c`: a character or its number.
fn character(value: &Value) -> Result<String, Error> {
    let bad = || unsupported("%c requires a whole number or one character");
    match value.as_str() {
        Some(text) if text.chars().count() == 1 => Ok(text.to_owned()),
        Some(_) => Err(bad()),
        None => {
            let number = u32::try_from(whole(value)?).map_err(|_| bad())?;
            char::from_u32(number).map(String::from).ok_or_else(bad)
        }
    }
}

/// As C writes it: at least two digits of exponent, with a sign.
fn scientific(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}
