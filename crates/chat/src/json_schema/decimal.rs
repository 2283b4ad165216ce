//! Numbers of a schema with all their digits, and the regular expressions of the texts on one side of them.

use std::cmp::Ordering;
use std::fmt;

/// Longest number that is held, in digits before or after the point: a little more than the exponents of f32 need.
const MAX_DIGITS: usize = 60;

/// A decimal number, exact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Decimal {
    negative: bool,
    /// Digits before the point, without leading zeros: `0` is empty.
    whole: String,
    /// Digits after the point, without trailing zeros.
    fraction: String,
}

impl Decimal {
    /// Zero.
    pub fn zero() -> Self {
        Self { negative: false, whole: String::new(), fraction: String::new() }
    }

    /// The number that a JSON number spells; `None` when it has too many digits to be held.
    pub fn new(number: &serde_json::Number) -> Option<Self> {
        Self::parse(&number.to_string())
    }

    fn parse(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().ok()?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if digits.bytes().all(|digit| digit == b'0') {
            return Some(Self::zero());
        }
        // Where the point stands among the digits.
        let point = whole.len() as i64 + exponent;
        let limit = MAX_DIGITS as i64 * 2;
        if !(-limit..=limit).contains(&point) {
            return None;
        }
        let padded = match point {
            ..0 => (String::new(), format!("{}{digits}", "0".repeat(-point as usize))),
            point if point as usize > digits.len() => {
                (format!("{digits}{}", "0".repeat(point as usize - digits.len())), String::new())
            }
            point => (digits[..point as usize].to_owned(), digits[point as usize..].to_owned()),
        };
        let whole = padded.0.trim_start_matches('0').to_owned();
        let fraction = padded.1.trim_end_matches('0').to_owned();
        let fits = whole.len() <= MAX_DIGITS && fraction.len() <= MAX_DIGITS;
        fits.then_some(Self { negative, whole, fraction })
    }

    /// Whether it is too large to be held: bounds beyond everything bound nothing.
    pub fn is_huge(number: &serde_json::Number) -> bool {
        Self::new(number).is_none() && number.as_f64().is_some_and(|value| value.abs() > 1.0)
    }

    /// The number of most digits, below zero or above.
    pub fn farthest(negative: bool) -> Self {
        Self { negative, whole: "9".repeat(MAX_DIGITS), fraction: String::new() }
    }

    /// Without its sign.
    pub fn magnitude(&self) -> Self {
        Self { negative: false, ..self.clone() }
    }

    /// Whether it has nothing after the point.
    pub fn is_whole(&self) -> bool {
        self.fraction.is_empty()
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    /// The whole number itself or next to it: above where `up`, else below.
    pub fn rounded(&self, up: bool) -> Self {
        if self.is_whole() {
            return self.clone();
        }
        let cut = Self { negative: self.negative, whole: self.whole.clone(), fraction: String::new() }.normal();
        if up == self.negative { cut } else { cut.step(up) }
    }

    /// The next whole number, above or below a whole number.
    pub fn step(&self, up: bool) -> Self {
        if self.is_zero() {
            return Self { negative: !up, whole: "1".to_owned(), fraction: String::new() };
        }
        let mut digits: Vec<u8> = self.whole.bytes().collect();
        let is_towards_zero = up == self.negative;
        if is_towards_zero {
            let mut index = digits.len() - 1;
            while digits[index] == b'0' {
                digits[index] = b'9';
                index -= 1;
            }
            digits[index] -= 1;
        } else {
            let mut index = digits.len();
            loop {
                if index == 0 {
                    digits.insert(0, b'1');
                    break;
                }
                index -= 1;
                if digits[index] == b'9' {
                    digits[index] = b'0';
                } else {
                    digits[index] += 1;
                    break;
                }
            }
        }
        let whole: String = digits.into_iter().map(char::from).collect();
        let whole = whole.trim_start_matches('0').to_owned();
        Self { negative: self.negative, whole, fraction: String::new() }.normal()
    }

    fn normal(mut self) -> Self {
        self.negative &= !self.is_zero();
        self
    }

    /// Digits before and after the point.
    pub fn num_digits(&self) -> (usize, usize) {
        (self.whole.len(), self.fraction.len())
    }

    /// The number without its sign, times 10 to the given power, where that is a small whole number.
    pub fn scaled(&self, power: usize) -> Option<u64> {
        if self.fraction.len() > power || self.whole.len() + power > 18 {
            return None;
        }
        format!("{}{:0<power$}", self.whole, self.fraction).parse().ok()
    }

    fn cmp_magnitude(&self, other: &Self) -> Ordering {
        (self.whole.len().cmp(&other.whole.len()))
            .then_with(|| self.whole.cmp(&other.whole))
            .then_with(|| self.fraction.cmp(&other.fraction))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.cmp_magnitude(other),
            (true, true) => other.cmp_magnitude(self),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.negative { "-" } else { "" })?;
        f.write_str(if self.whole.is_empty() { "0" } else { &self.whole })?;
        if self.fraction.is_empty() { Ok(()) } else { write!(f, ".{}", self.fraction) }
    }
}

/// A regular expression of whole numbers without sign that are not below (`above`) or not above a whole number.
pub(super) fn whole_from(bound: &Decimal, above: bool) -> String {
    let digits: Vec<u8> = bound.whole.bytes().map(|byte| byte - b'0').collect();
    let length = digits.len();
    let other_length = match (above, length) {
        (true, 0) => return "(?:0|[1-9][0-9]*)".to_owned(),
        (false, 0) => return "0".to_owned(),
        (true, _) => format!("[1-9][0-9]{{{length},}}"),
        (false, 1) => String::new(),
        (false, _) => format!("0|[1-9][0-9]{{0,{}}}", length - 2),
    };
    let mut same = String::new();
    for (index, digit) in digits.iter().enumerate() {
        // A number of more than one digit does not begin with 0.
        let least = u8::from(index == 0 && length > 1);
        let (low, high) = if above { (digit + 1, 9) } else { (least, digit.wrapping_sub(1)) };
        let rest = length - index - 1;
        let is_empty = if above { *digit == 9 } else { *digit <= least };
        let free = if is_empty { String::new() } else { format!("[{low}-{high}][0-9]{{{rest}}}|") };
        same.extend(["(?:", &free, &digit.to_string()]);
    }
    same.push_str(&")".repeat(length));
    if other_length.is_empty() { format!("(?:{same})") } else { format!("(?:{other_length}|{same})") }
}

/// A regular expression of decimal numbers without sign and exponent on one side of a number without sign.
/// `None` when there are none.
pub(super) fn decimal_from(bound: &Decimal, above: bool, exclusive: bool) -> Option<String> {
    let whole = Decimal { negative: false, whole: bound.whole.clone(), fraction: String::new() };
    let any_fraction = r"(?:\.[0-9]+)?";
    let beyond =
        (above || !whole.is_zero()).then(|| format!("{}{any_fraction}", whole_from(&whole.step(above), above)));
    let digits = if whole.whole.is_empty() { "0" } else { &whole.whole };
    let equal = match (bound.fraction.is_empty(), above) {
        (true, true) if exclusive => Some(format!(r"{digits}\.[0-9]*[1-9][0-9]*")),
        (true, true) => Some(format!("{digits}{any_fraction}")),
        (true, false) => (!exclusive).then(|| format!(r"{digits}(?:\.0+)?")),
        (false, true) => Some(format!(r"{digits}\.{}", fraction_above(&bound.fraction, exclusive))),
        (false, false) => Some(format!(r"{digits}(?:\.{})?", fraction_below(&bound.fraction, exclusive))),
    };
    let parts: Vec<String> = beyond.into_iter().chain(equal).collect();
    (!parts.is_empty()).then(|| format!("(?:{})", parts.join("|")))
}

fn fraction_above(fraction: &str, exclusive: bool) -> String {
    let Some(digit) = fraction.bytes().next().map(|byte| byte - b'0') else {
        return if exclusive { "[0-9]*[1-9][0-9]*" } else { "[0-9]*" }.to_owned();
    };
    let free = if digit == 9 { String::new() } else { format!("[{}-9][0-9]*|", digit + 1) };
    format!("(?:{free}{digit}{})", fraction_above(&fraction[1..], exclusive))
}

fn fraction_below(fraction: &str, exclusive: bool) -> String {
    let Some(digit) = fraction.bytes().next().map(|byte| byte - b'0') else {
        return "0*".to_owned();
    };
    let rest = match fraction.len() {
        // The last digit itself is not below.
        1 if exclusive => None,
        1 => Some("0*".to_owned()),
        _ => Some(format!("(?:{})?", fraction_below(&fraction[1..], exclusive))),
    };
    let mut parts = Vec::new();
    if digit > 0 {
        parts.push(format!("[0-{}][0-9]*", digit - 1));
    }
    parts.extend(rest.map(|rest| format!("{digit}{rest}")));
    format!("(?:{})", parts.join("|"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    fn matches(regex: &str, text: &str) -> bool {
        regex::Regex::new(&format!("^(?:{regex})$")).unwrap().is_match(text)
    }

    #[test]
    fn every_digit_is_kept() {
        for (text, shown) in [
            ("1234567890123456789", "1234567890123456789"),
            ("-1e30", "-1000000000000000000000000000000"),
            ("1.5e-3", "0.0015"),
            ("0.10", "0.1"),
            ("-0.0", "0"),
            ("3.4028234663852886e+38", "340282346638528860000000000000000000000"),
        ] {
            assert_eq!(decimal(text).to_string(), shown);
        }
        assert_eq!(Decimal::parse("1e300"), None);
        assert_eq!(Decimal::parse("1e-300"), None);
        assert_eq!(Decimal::parse("1e9999999999999999999"), None);
        assert!(decimal("-9223372036854775808") < decimal("-9223372036854775807.5"));
    }

    #[test]
    fn whole_numbers_beside_a_number() {
        let steps = [("0", "1", "-1"), ("9", "10", "8"), ("-1", "0", "-2"), ("-10", "-9", "-11"), ("100", "101", "99")];
        for (number, up, down) in steps {
            assert_eq!((decimal(number).step(true), decimal(number).step(false)), (decimal(up), decimal(down)));
        }
        assert_eq!(decimal("-1.5").rounded(true), decimal("-1"));
        assert_eq!(decimal("-0.5").rounded(true), decimal("0"));
        assert_eq!(decimal("0.5").rounded(true), decimal("1"));
        assert_eq!(decimal("0.5").rounded(false), decimal("0"));
        assert_eq!(decimal("-0.5").rounded(false), decimal("-1"));
    }

    proptest! {
        #[test]
        fn whole_numbers_on_one_side(bound in 0u64..1200, other in 0u64..1300) {
            let decimal = decimal(&bound.to_string());
            prop_assert_eq!(matches(&whole_from(&decimal, true), &other.to_string()), other >= bound);
            prop_assert_eq!(matches(&whole_from(&decimal, false), &other.to_string()), other <= bound);
        }

        #[test]
        fn decimals_on_one_side(bound in 0u64..3000, scale in 0usize..4, other in 0u64..3000, places in 0usize..4) {
            let spell = |number: u64, places: usize| {
                let text = format!("{number:0>width$}", width = places + 1);
                let (whole, fraction) = text.split_at(text.len() - places);
                if places == 0 { whole.to_owned() } else { format!("{whole}.{fraction}") }
            };
            let text = spell(other, places);
            let bound = decimal(&spell(bound, scale));
            for (above, exclusive) in [(true, true), (true, false), (false, true), (false, false)] {
                let order = decimal(&text).cmp(&bound);
                let expected = (!exclusive && order.is_eq()) || order == if above { Ordering::Greater } else { Ordering::Less };
                let found = decimal_from(&bound, above, exclusive).is_some_and(|regex| matches(&regex, &text));
                prop_assert_eq!(found, expected, "{} {} {} {}", text, bound, above, exclusive);
            }
        }
    }
}
