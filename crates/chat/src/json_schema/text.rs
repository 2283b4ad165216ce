//! Strings: what a pattern or a format says of a string's text, as a regular expression of its JSON spelling.

use std::cell::OnceCell;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look, Repetition};

/// One character of a JSON string. Every character has one spelling, so that what is excluded stays excluded.
pub(super) const CHARACTER: &str = r#"(?:[^"\\\x00-\x1f\x7f]|\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]|7f)))"#;

/// Largest count of a pattern's repetition, and its longest text.
const MAX_REPETITION: u32 = 10_000;
const MAX_PATTERN_BYTES: usize = 8 << 10;
/// Most states of a pattern.
const MAX_SIZE: u32 = 40_000;
/// Most texts of a pattern that are told one by one.
const MAX_TEXTS: usize = 64;

/// A pattern of a schema.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// Matches the JSON spelling, without the quotes, of the texts that the pattern fits.
    pub quoted: String,
    /// What texts that fit look like.
    source: String,
    /// Made of it when a text is first asked about.
    matcher: OnceCell<regex::Regex>,
    /// It stands for a format, which is wider.
    pub is_format: bool,
    /// How many states it has, roughly.
    pub size: u32,
    /// All texts that fit, where they are few.
    pub texts: Option<Vec<String>>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.quoted == other.quoted
    }
}

impl Pattern {
    /// A pattern as JSON Schema has it: it may fit anywhere in the text.
    ///
    /// # Errors
    /// In plain words, when it cannot be enforced.
    pub fn new(source: &str) -> Result<Self, String> {
        if source.len() > MAX_PATTERN_BYTES {
            return Err(format!("is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        let around = ["(?=", "(?!", "(?<=", "(?<!"].iter().filter_map(|look| source.find(look)).min();
        Self::from_rust(&ecma_to_rust(source), false).map_err(|error| match around {
            // Where it stands in what the client wrote.
            Some(at) => {
                let at: String = source[at..].chars().take(20).collect();
                format!("uses look-around, which cannot be enforced, at {at:?}")
            }
            None => error,
        })
    }

    /// Just these texts.
    pub fn of_texts(texts: Vec<String>) -> Self {
        let parts: Vec<Hir> = texts.iter().map(|text| Hir::literal(text.as_bytes())).collect();
        let exact = Hir::alternation(parts);
        let quoted = lark_regex(&quote(&exact).expect("texts are texts"));
        Self {
            quoted,
            source: exact.to_string(),
            matcher: OnceCell::new(),
            is_format: false,
            size: size(&exact),
            texts: Some(texts),
        }
    }

    /// What a format asserts; `None` for formats that assert nothing here.
    pub fn of_format(name: &str) -> Option<Self> {
        let source = super::formats::pattern(name)?;
        let pattern = Self::from_rust(&source, true).expect("formats' patterns are regular");
        Some(Self { is_format: true, ..pattern })
    }

    fn from_rust(source: &str, whole: bool) -> Result<Self, String> {
        let mut parser = regex_syntax::ParserBuilder::new().nest_limit(100).build();
        let hir = parser.parse(source).map_err(|error| reason(source, &error))?;
        let exact = if whole { hir } else { open(&open(&hir, Look::Start), Look::End) };
        if !exact.properties().look_set().is_empty() {
            return Err("has ^, $ or \\b in a place that cannot be enforced".to_owned());
        }
        let size = size(&exact);
        if size > MAX_SIZE {
            return Err("is too large".to_owned());
        }
        let texts = all_texts(&exact).filter(|texts| texts.len() <= MAX_TEXTS);
        Ok(Self {
            quoted: lark_regex(&quote(&exact)?),
            source: exact.to_string(),
            matcher: OnceCell::new(),
            is_format: false,
            size,
            texts,
        })
    }

    /// Whether a text fits.
    pub fn fits(&self, text: &str) -> bool {
        let matcher = || regex::Regex::new(&format!("^(?:{})$", self.source)).expect("its size is bounded");
        self.matcher.get_or_init(matcher).is_match(text)
    }
}

/// The JSON spelling, without quotes, of the texts that a regular expression fits as a whole; and how many states it has,
/// roughly.
///
/// # Errors
/// In plain words, when it cannot be enforced.
pub(crate) fn quoted_regex(source: &str) -> Result<(String, u32), String> {
    Pattern::from_rust(source, true).map(|pattern| (pattern.quoted, pattern.size))
}

/// Why a pattern is refused, in plain words.
fn reason(source: &str, error: &regex_syntax::Error) -> String {
    use regex_syntax::ast::ErrorKind;
    let regex_syntax::Error::Parse(error) = error else {
        return "is no regular expression that can be enforced".to_owned();
    };
    let at = source.get(error.span().start.offset..).unwrap_or_default();
    let at: String = at.chars().take(20).collect();
    match error.kind() {
        ErrorKind::UnsupportedBackreference => format!("uses a backreference, which cannot be enforced, at {at:?}"),
        ErrorKind::NestLimitExceeded(_) => "is nested too deeply".to_owned(),
        _ => format!("is not a regular expression that can be enforced, at {at:?}"),
    }
}

/// White space, as ECMAScript has it.
const SPACES: &str = r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}";

/// ECMAScript's spelling in Rust's: classes of ASCII, escapes that mean themselves, `[^]` and `[]`.
pub(crate) fn ecma_to_rust(source: &str) -> String {
    let mut result = String::with_capacity(source.len() + 16);
    let mut characters = source.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match escape(&mut characters) {
                Some(Atom::Set(set)) if ["[", "\\p", "\\P"].iter().any(|start| set.starts_with(start)) => {
                    result.push_str(&set);
                }
                Some(Atom::Set(set)) => result.extend(["[", &set, "]"]),
                Some(Atom::One(one)) => result.push_str(&one),
                None => result.push('\\'),
            },
            '[' => class(&mut characters, &mut result),
            '.' => result.push_str("[^\\n\\r\\x{2028}\\x{2029}]"),
            // A brace that counts nothing is a character.
            '{' if !counts(characters.clone()) => result.push_str("\\{"),
            '}' if !closes_count(&result) => result.push_str("\\}"),
            _ => result.push(character),
        }
    }
    result
}

type Characters<'s> = std::iter::Peekable<std::str::Chars<'s>>;

/// A part of a class.
enum Atom {
    /// A character, in Rust's spelling.
    One(String),
    /// Several, as they stand in a class.
    Set(String),
}

/// What stands behind a backslash.
fn escape(characters: &mut Characters) -> Option<Atom> {
    const WORD: &str = "0-9A-Za-z_";
    let one = |text: &str| Some(Atom::One(text.to_owned()));
    let set = |text: String| Some(Atom::Set(text));
    match characters.next()? {
        'd' => set("0-9".to_owned()),
        'D' => set("[^0-9]".to_owned()),
        'w' => set(WORD.to_owned()),
        'W' => set(format!("[^{WORD}]")),
        's' => set(SPACES.to_owned()),
        'S' => set(format!("[^{SPACES}]")),
        'v' => one("\\x0b"),
        'f' => one("\\x0c"),
        'c' if characters.peek().is_some_and(char::is_ascii_alphabetic) => {
            let letter = characters.next().expect("peeked at");
            Some(Atom::One(format!("\\x{:02x}", letter as u8 & 31)))
        }
        '0' if !characters.peek().is_some_and(char::is_ascii_digit) => one("\\x00"),
        named @ ('p' | 'P' | 'x' | 'u') => {
            let mut text = format!("\\{named}");
            if characters.peek() == Some(&'{') {
                text.extend(characters.by_ref().take_while(|character| *character != '}'));
                text.push('}');
            } else {
                let digits = if named == 'x' { 2 } else { 4 };
                while text.len() < 2 + digits
                    && let Some(digit) = characters.next_if(char::is_ascii_hexdigit)
                {
                    text.push(digit);
                }
            }
            Some(if matches!(named, 'p' | 'P') { Atom::Set(text) } else { Atom::One(text) })
        }
        other @ ('n' | 'r' | 't' | 'b' | 'B' | 'k' | '1'..='9') => one(&format!("\\{other}")),
        // Rust refuses escapes of what needs none.
        other => one(&regex_syntax::escape(&other.to_string())),
    }
}

/// Writes a class, whose `[` was read. Rust's classes nest and have operators; ECMAScript's do not.
fn class(characters: &mut Characters, result: &mut String) {
    let is_negated = characters.next_if_eq(&'^').is_some();
    let mut atoms = Vec::new();
    loop {
        match characters.next() {
            Some(']') => break,
            Some('\\') => match escape(characters) {
                Some(Atom::One(one)) if one == "\\b" => atoms.push(Atom::One("\\x08".to_owned())),
                Some(atom) => atoms.push(atom),
                None => {}
            },
            Some('-') => atoms.push(Atom::One("-".to_owned())),
            Some(character) if "[&~^".contains(character) => atoms.push(Atom::One(format!("\\{character}"))),
            Some(character) => atoms.push(Atom::One(character.to_string())),
            // It never ends: the parser says so.
            None => return result.push('['),
        }
    }
    if atoms.is_empty() {
        return result.push_str(if is_negated { "(?s:.)" } else { "[^\\x00-\\x{10FFFF}]" });
    }
    let itself = |one: &str| if one == "-" { "\\-".to_owned() } else { one.to_owned() };
    result.push_str(if is_negated { "[^" } else { "[" });
    let mut rest = atoms.as_slice();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (Atom::One(low), [Atom::One(dash), Atom::One(high), after @ ..]) if dash == "-" => {
                result.extend([&itself(low), "-", &itself(high)]);
                rest = after;
            }
            (Atom::One(one) | Atom::Set(one), tail) => {
                result.push_str(&itself(one));
                rest = tail;
            }
        }
    }
    result.push(']');
}

fn counts(mut rest: impl Iterator<Item = char>) -> bool {
    let mut digits = 0;
    loop {
        match rest.next() {
            Some('0'..='9') => digits += 1,
            Some(',') if digits > 0 => {}
            Some('}') => return digits > 0,
            _ => return false,
        }
    }
}

fn closes_count(before: &str) -> bool {
    let Some(open) = before.rfind('{') else { return false };
    let is_escaped = before[..open].chars().rev().take_while(|character| *character == '\\').count() % 2 == 1;
    !is_escaped && before[open + 1..].bytes().all(|byte| b"0123456789,".contains(&byte))
}

/// A pattern that may be preceded or followed by anything, unless an anchor stands there.
fn open(hir: &Hir, anchor: Look) -> Hir {
    let at_start = anchor == Look::Start;
    let parts = match hir.kind() {
        HirKind::Alternation(parts) => return Hir::alternation(parts.iter().map(|part| open(part, anchor)).collect()),
        HirKind::Capture(capture) => return open(&capture.sub, anchor),
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(hir),
    };
    let is_anchor = |part: &Hir| matches!(part.kind(), HirKind::Look(look) if *look == anchor);
    let (outer, inner) = match (parts.split_first(), parts.split_last()) {
        (Some((first, rest)), _) if at_start => (first, rest),
        (_, Some((last, rest))) => (last, rest),
        _ => return anything(),
    };
    let outer = match outer {
        // Said twice.
        outer if is_anchor(outer) && inner.iter().any(is_anchor) => return open(&Hir::concat(inner.to_vec()), anchor),
        outer if is_anchor(outer) => Hir::empty(),
        outer if parts.len() > 1 && outer.properties().look_set().contains(anchor) => open(outer, anchor),
        outer if at_start => Hir::concat(vec![anything(), outer.clone()]),
        outer => Hir::concat(vec![outer.clone(), anything()]),
    };
    let mut parts = inner.to_vec();
    parts.insert(if at_start { 0 } else { parts.len() }, outer);
    Hir::concat(parts)
}

/// Roughly the number of an automaton's states.
fn size(hir: &Hir) -> u32 {
    let all = |parts: &[Hir]| parts.iter().map(size).fold(1, u32::saturating_add);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(Class::Bytes(_)) => 1,
        HirKind::Literal(literal) => literal.0.len() as u32,
        // Characters beyond ASCII take several bytes each.
        HirKind::Class(Class::Unicode(class)) if class.is_ascii() => 1,
        HirKind::Class(Class::Unicode(class)) => 8 + class.ranges().len() as u32,
        HirKind::Repetition(repetition) => {
            let count = repetition.max.unwrap_or(repetition.min).max(1);
            size(&repetition.sub).saturating_mul(count)
        }
        HirKind::Capture(capture) => size(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => all(parts),
    }
}

fn anything() -> Hir {
    let class = Hir::class(Class::Unicode(ClassUnicode::new([ClassUnicodeRange::new('\0', char::MAX)])));
    Hir::repetition(Repetition { min: 0, max: None, greedy: true, sub: Box::new(class) })
}

/// The same in JSON's spelling.
fn quote(hir: &Hir) -> Result<Hir, String> {
    Ok(match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Look(_) => return Err("looks around".to_owned()),
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).map_err(|_| "matches what is no text".to_owned())?;
            let mut spelled = String::new();
            text.chars().for_each(|character| spell(character, &mut spelled));
            Hir::literal(spelled.into_bytes())
        }
        HirKind::Class(Class::Bytes(class)) if class.iter().next().is_none() => Hir::fail(),
        HirKind::Class(Class::Bytes(_)) => return Err("matches what is no text".to_owned()),
        HirKind::Class(Class::Unicode(class)) => quote_class(class),
        HirKind::Repetition(repetition) => {
            if repetition.min > MAX_REPETITION || repetition.max.is_some_and(|max| max > MAX_REPETITION) {
                return Err(format!("repeats more than {MAX_REPETITION} times"));
            }
            let sub = Box::new(quote(&repetition.sub)?);
            Hir::repetition(Repetition { sub, greedy: true, ..repetition.clone() })
        }
        HirKind::Capture(capture) => quote(&capture.sub)?,
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(quote).collect::<Result<_, _>>()?),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(quote).collect::<Result<_, _>>()?),
    })
}

fn quote_class(class: &ClassUnicode) -> Hir {
    let special = |character: char| character < ' ' || matches!(character, '"' | '\\' | '\u{7f}');
    let specials = ('\0'..'\u{80}').filter(|character| special(*character));
    let mut plain = class.clone();
    plain
        .difference(&ClassUnicode::new(specials.clone().map(|character| ClassUnicodeRange::new(character, character))));
    let has = |character: &char| class.iter().any(|range| (range.start()..=range.end()).contains(character));
    let spelled = specials.filter(has).map(|character| {
        let mut text = String::new();
        spell(character, &mut text);
        Hir::literal(text.into_bytes())
    });
    let plain = Hir::class(Class::Unicode(plain));
    Hir::alternation(std::iter::once(plain).chain(spelled).collect())
}

/// Writes a character as JSON does.
fn spell(character: char, out: &mut String) {
    match character {
        '\u{7f}' => out.push_str("\\u007f"),
        character => {
            let quoted = serde_json::Value::from(character.to_string()).to_string();
            out.push_str(&quoted[1..quoted.len() - 1]);
        }
    }
}

/// A text as a JSON string in the one spelling that grammars use.
pub(super) fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    text.chars().for_each(|character| spell(character, &mut out));
    out + "\""
}

/// A regular expression between slashes, as Lark has it.
fn lark_regex(hir: &Hir) -> String {
    let mut result = String::from("/");
    let mut escaped = false;
    for character in hir.to_string().chars() {
        match character {
            '/' if !escaped => result.push_str("\\/"),
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            _ => result.push(character),
        }
        escaped = character == '\\' && !escaped;
    }
    result + "/"
}

/// All texts that fit, where they are few.
fn all_texts(hir: &Hir) -> Option<Vec<String>> {
    let few = |texts: &Vec<String>| texts.len() <= MAX_TEXTS;
    let joined = |left: &[String], right: &[String]| -> Option<Vec<String>> {
        let fits = left.len() * right.len() <= MAX_TEXTS;
        fits.then(|| left.iter().flat_map(|a| right.iter().map(move |b| format!("{a}{b}"))).collect())
    };
    let mut texts = match hir.kind() {
        HirKind::Empty => vec![String::new()],
        HirKind::Literal(literal) => vec![String::from_utf8(literal.0.to_vec()).ok()?],
        HirKind::Class(Class::Unicode(class)) => {
            let count: usize = class.iter().map(ClassUnicodeRange::len).sum();
            let all = class.iter().flat_map(|range| range.start()..=range.end());
            (count <= MAX_TEXTS).then(|| all.map(String::from).collect())?
        }
        HirKind::Repetition(repetition) => {
            let most = repetition.max.filter(|max| *max <= 16)?;
            let one = all_texts(&repetition.sub)?;
            let (mut power, mut all) = (vec![String::new()], Vec::new());
            for count in 0..=most {
                if count >= repetition.min {
                    all.extend(power.iter().cloned());
                }
                if count < most {
                    power = joined(&power, &one)?;
                }
            }
            all
        }
        HirKind::Capture(capture) => all_texts(&capture.sub)?,
        HirKind::Concat(parts) => {
            let mut all = vec![String::new()];
            for part in parts {
                all = joined(&all, &all_texts(part)?)?;
            }
            all
        }
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(all_texts(part).filter(few)?);
            }
            all
        }
        HirKind::Class(Class::Bytes(_)) | HirKind::Look(_) => return None,
    };
    texts.sort();
    texts.dedup();
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_anywhere_unless_anchored() {
        let fits = |source: &str, text: &str| Pattern::new(source).unwrap().fits(text);
        assert!(fits("b+", "abc") && fits("^a", "abc") && fits("c$", "abc") && fits("^abc$", "abc"));
        assert!(!fits("^b", "abc") && !fits("b$", "abc") && !fits(r"^\d$", "٣") && fits(r"^\/a\_$", "/a_"));
        assert!(fits("^[^]$", "\n") && !fits("^.$", "\n") && fits("^{a}$", "{a}") && fits("^a{2}$", "aa"));
        assert!(fits(r"^[\w-\.]+@([\w-]+\.)+[\w-]{2,4}$", "a-b.c@d-e.org") && !fits(r"^[\w-z]$", "`"));
        assert!(fits(r"^[\w-z]$", "-") && fits(r"^[+--]$", ",") && !fits(r"^[^+--]$", ",") && fits(r"^\\{2}$", r"\\"));
        assert!(fits(r"^\s$", "\t") && !fits(r"^\s$", "t-\r") && fits(r"^[\s,]\S\d\D\w\W$", ",a1a1-"));
        assert!(fits(r"^[\]\[]$", "]") && fits(r"^[a\-z]$", "-") && !fits(r"^[a\-z]$", "b") && fits("^[a-c-e]$", "-"));
        assert!(fits("^a$|^b$", "b") && !fits("^a$|^b$", "ab") && fits("^a|b$", "cb") && !fits("^a|b$", "ba"));
        assert!(fits(r"^\u0041\x42\cJ$", "AB\n") && fits("^[[a&&b]$", "[") && fits(r"^\p{L}+$", "é"));
    }

    #[test]
    fn what_cannot_be_enforced_is_said_in_plain_words() {
        let refused = |source: &str| Pattern::new(source).unwrap_err();
        assert_eq!(refused("^.(?!x.)a"), "uses look-around, which cannot be enforced, at \"(?!x.)a\"");
        assert!(refused(r"(a)\1").contains("backreference"));
        assert!(refused("a(").contains("at \"(\"") || refused("a(").contains("regular expression"));
        assert!(refused(r"a\bc").contains(r"\b"));
        assert!(refused("a{99999}").contains("large") && refused("[^a]{9000}").contains("large"));
        assert!(refused("((a{100}){100}){100}").contains("large"));
    }

    #[test]
    fn spelling_is_json_and_unique() {
        let quoted = |source: &str| Pattern::new(source).unwrap().quoted;
        assert_eq!(quoted("^a\"b$"), r#"/(?:a\\"b)/"#);
        assert_eq!(quoted("^\\n$"), r"/(?:\\n)/");
        assert_eq!(Pattern::new("^a[01]$").unwrap().texts.unwrap(), ["a0", "a1"]);
        assert_eq!(Pattern::new("^(x|yy)?$").unwrap().texts.unwrap(), ["", "x", "yy"]);
        assert_eq!(Pattern::new("a").unwrap().texts, None);
        assert_eq!(json_string("a\u{7f}\n\u{1}"), r#""a\u007f\n\u0001""#);
    }
}
