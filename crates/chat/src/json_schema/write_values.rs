//! Numbers and strings as terminals of Lark.

use serde_json::json;

use super::Unenforceable;
use super::decimal::{Decimal, decimal_from, whole_from};
use super::shape::{Bound, Numbers, Texts};
use super::text::{CHARACTER, json_string};
use super::write::{Writer, literal};

/// Most multiples that are told one by one.
const MAX_MULTIPLES: i128 = 500;

impl Writer<'_> {
    /// An element of numbers; `None` when there are none.
    pub(super) fn numbers(&mut self, numbers: &Numbers) -> Result<Option<String>, Unenforceable> {
        if !numbers.multiples_of.is_empty() {
            return self.multiples(numbers);
        }
        let body = match (&numbers.low, &numbers.high, numbers.whole) {
            (None, None, true) => Some("/-?(?:0|[1-9][0-9]*)/".to_owned()),
            (None, None, false) => Some(r"/-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?/".to_owned()),
            (low, high, whole) => between(low.as_ref(), high.as_ref(), whole),
        };
        body.map(|body| self.terminal(&body)).transpose()
    }

    fn multiples(&mut self, numbers: &Numbers) -> Result<Option<String>, Unenforceable> {
        let Some((step, places)) = common_multiple(numbers) else {
            self.definitions.refuse_at("", "multipleOf", "cannot be enforced together with the others")?;
            return self.numbers(&Numbers { multiples_of: Vec::new(), ..numbers.clone() });
        };
        if step == 1 && places == 0 {
            return self.numbers(&Numbers { whole: true, multiples_of: Vec::new(), ..numbers.clone() });
        }
        let bound = |bound: &Option<Bound>| bound.as_ref().map(|bound| scaled(&bound.value, places)).transpose();
        let (Ok(low), Ok(high)) = (bound(&numbers.low), bound(&numbers.high)) else {
            self.definitions.refuse_at("", "multipleOf", "cannot be enforced beside bounds of so many digits")?;
            return self.numbers(&Numbers { multiples_of: Vec::new(), ..numbers.clone() });
        };
        let step_signed = i128::from(step);
        if let (Some((low, low_cut)), Some((high, _))) = (low, high)
            && (high - low) / step_signed <= MAX_MULTIPLES
        {
            // The first multiple that is not below: a cut bound lies above its whole part.
            let mut value = (low + i128::from(low_cut)).div_euclid(step_signed) * step_signed;
            if value < low + i128::from(low_cut) {
                value += step_signed;
            }
            let mut parts = Vec::new();
            while value <= high {
                let text = spelled(value, places);
                let number = serde_json::from_str(&text).ok().as_ref().and_then(Decimal::new);
                let within = Numbers { multiples_of: Vec::new(), ..numbers.clone() };
                if number.is_some_and(|number| within.accept(&number)) {
                    parts.push(literal(&text));
                }
                value += step_signed;
            }
            return if parts.is_empty() { Ok(None) } else { self.terminal(&parts.join(" | ")).map(Some) };
        }
        let number = |bound: &Bound| bound.value.to_string().parse::<f64>().unwrap_or_default();
        let mut schema = json!({
            "type": if numbers.whole { "integer" } else { "number" },
            "multipleOf": step as f64 / 10f64.powi(places as i32),
        });
        for (bound, keyword, exclusive) in
            [(&numbers.low, "minimum", "exclusiveMinimum"), (&numbers.high, "maximum", "exclusiveMaximum")]
        {
            if let Some(bound) = bound {
                schema[if bound.exclusive { exclusive } else { keyword }] = number(bound).into();
            }
        }
        self.rule(&format!("%json {schema}")).map(Some)
    }

    /// An element of strings; `None` when there are none.
    pub(super) fn texts(&mut self, texts: &Texts) -> Result<Option<String>, Unenforceable> {
        if let Some(told) = texts.patterns.iter().find_map(|pattern| pattern.texts.as_ref()) {
            let fitting: Vec<String> =
                told.iter().filter(|text| texts.accept(text)).map(|text| literal(&json_string(text))).collect();
            return if fitting.is_empty() { Ok(None) } else { self.terminal(&fitting.join(" | ")).map(Some) };
        }
        let body = inner(texts).join(" & ");
        self.terminal(&format!("\"\\\"\" ({body}) \"\\\"\"")).map(Some)
    }
}

/// What the text between the quotes must all be.
pub(super) fn inner(texts: &Texts) -> Vec<String> {
    let mut parts: Vec<String> = texts.patterns.iter().map(|pattern| pattern.quoted.clone()).collect();
    let count = match (texts.min, texts.max) {
        (0, None) => "*".to_owned(),
        (min, None) => format!("{{{min},}}"),
        (min, Some(max)) => format!("{{{min},{max}}}"),
    };
    if parts.is_empty() || count != "*" {
        parts.push(format!("/{CHARACTER}{count}/"));
    }
    parts
}

/// A terminal of the numbers between two bounds.
fn between(low: Option<&Bound>, high: Option<&Bound>, whole: bool) -> Option<String> {
    let side = |bound: &Bound, above: bool| {
        let magnitude = bound.value.magnitude();
        if whole { Some(whole_from(&magnitude, above)) } else { decimal_from(&magnitude, above, bound.exclusive) }
    };
    // Lower and upper bounds of what stands behind the sign.
    let part = |sign: &str, from: Option<Option<String>>, to: Option<Option<String>>| {
        let sides: Option<Vec<String>> = from.into_iter().chain(to).collect();
        let sides: Vec<String> = sides?.into_iter().map(|side| format!("/{side}/")).collect();
        let all = if whole { "/0|[1-9][0-9]*/" } else { r"/(?:0|[1-9][0-9]*)(?:\.[0-9]+)?/" };
        let body = if sides.is_empty() { all.to_owned() } else { sides.join(" & ") };
        Some(format!("{sign}({body})"))
    };
    let is_below = |bound: &&Bound| bound.value.is_negative();
    let positive = if high.as_ref().is_some_and(is_below) {
        None
    } else {
        let from = low.filter(|bound| !bound.value.is_negative()).map(|bound| side(bound, true));
        part("", from, high.map(|bound| side(bound, false)))
    };
    let negative = if low.is_some_and(|bound| !bound.value.is_negative()) {
        None
    } else {
        let from = match high.filter(is_below) {
            Some(bound) => side(bound, true),
            // Zero has no sign.
            None if whole => Some(whole_from(&Decimal::zero().step(true), true)),
            None => decimal_from(&Decimal::zero(), true, true),
        };
        part("\"-\" ", Some(from), low.map(|bound| side(bound, false)))
    };
    let parts: Vec<String> = positive.into_iter().chain(negative).collect();
    (!parts.is_empty()).then(|| parts.join(" | "))
}

/// The number whose multiples are those of all divisors: its digits, and how many of them stand behind the point.
fn common_multiple(numbers: &Numbers) -> Option<(u64, usize)> {
    let places = numbers.multiples_of.iter().map(|divisor| divisor.num_digits().1).max()?;
    let mut step = 1;
    for divisor in &numbers.multiples_of {
        step = least_common(step, divisor.scaled(places)?)?;
    }
    if !numbers.whole {
        return Some((step, places));
    }
    // Whole multiples of a number are multiples of a whole number.
    let unit = 10u64.checked_pow(places as u32)?;
    Some((least_common(step, unit)? / unit, 0))
}

fn least_common(a: u64, b: u64) -> Option<u64> {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).checked_mul(b).filter(|multiple| (1..=u64::from(u32::MAX)).contains(multiple))
}

/// A bound in units of the last place, rounded down, and whether something was cut.
fn scaled(bound: &Decimal, places: usize) -> Result<(i128, bool), ()> {
    let (whole, fraction) = bound.num_digits();
    if whole + places > 15 || fraction > 15 {
        return Err(());
    }
    let text = bound.magnitude().to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let kept: String = fraction.chars().chain(std::iter::repeat('0')).take(places).collect();
    let cut = fraction.len() > places;
    let value: i128 = format!("{whole}{kept}").parse().map_err(|_| ())?;
    Ok(match (bound.is_negative(), cut) {
        (false, cut) => (value, cut),
        (true, false) => (-value, false),
        (true, true) => (-value - 1, true),
    })
}

fn spelled(value: i128, places: usize) -> String {
    if places == 0 {
        return value.to_string();
    }
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}
