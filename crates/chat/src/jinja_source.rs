//! Rewrites what Python's Jinja takes and the engine does not, before the template is compiled:
//!
//! - `a % b` becomes `(a)|__mod__(b)`, so that text can be formatted with it;
//! - `{% generation %}` becomes `{% with %}`: it marks an assistant's turn and scopes variables, no more;
//! - macros that read `varargs` or `kwargs` get them as parameters, and calls of such macros go through `__call__`.
//!
//! Whatever needs none of these is left as it is, to the byte. Line numbers always stay what they were.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

/// The filter behind `%`.
pub(crate) const MOD: &str = "__mod__";
/// The function behind calls of macros that take any arguments.
pub(crate) const CALL: &str = "__call__";
/// What such macros are given.
pub(crate) const ANY_ARGUMENTS: [&str; 2] = ["varargs", "kwargs"];

/// The template as the engine takes it.
pub(crate) fn rewrite(source: &str) -> Cow<'_, str> {
    let tags = tags(source);
    let mut edits = Vec::new();
    for tag in &tags {
        rewrite_generation(tag, &mut edits);
        rewrite_remainders(tag, &mut edits);
    }
    rewrite_macros(&tags, &mut edits);
    if edits.is_empty() {
        return source.into();
    }
    // Stable: edits at one place stay in the order in which they were made.
    edits.sort_by_key(|edit| edit.place.start);
    let (mut text, mut end) = (String::with_capacity(source.len() * 2), 0);
    for edit in edits {
        text.push_str(source.get(end..edit.place.start).unwrap_or_default());
        text.push_str(&edit.text);
        end = edit.place.end.max(end);
    }
    text.push_str(&source[end..]);
    text.into()
}

/// Text in the place of other text.
struct Edit {
    place: Range<usize>,
    text: Cow<'static, str>,
}

impl Edit {
    fn insert(at: usize, text: impl Into<Cow<'static, str>>) -> Self {
        Self { place: at..at, text: text.into() }
    }

    fn replace(token: &Token, text: &'static str) -> Self {
        Self { place: token.start..token.start + token.text.len(), text: text.into() }
    }
}

/// What stands between `{{` and `}}` or `{%` and `%}`.
struct Tag<'a> {
    is_block: bool,
    tokens: Vec<Token<'a>>,
}

impl<'a> Tag<'a> {
    /// The name of a block: `if`, `macro`.
    fn name(&self) -> &'a str {
        self.tokens.first().filter(|_| self.is_block).map_or("", |token| token.text)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    /// A number or a string.
    Literal,
    Operator,
}

#[derive(Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    start: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether an operand can end here, so that an operator must follow.
    fn ends_operand(&self) -> bool {
        match self.kind {
            Kind::Name => !KEYWORDS.contains(&self.text),
            Kind::Literal => true,
            Kind::Operator => matches!(self.text, ")" | "]" | "}"),
        }
    }
}

const KEYWORDS: &[&str] = &["and", "or", "not", "if", "else", "in", "is", "recursive"];

/// All tags but comments and raw blocks. A template with a mistake ends at it; the engine will name it.
fn tags(source: &str) -> Vec<Tag<'_>> {
    let (mut tags, mut at) = (Vec::new(), 0);
    while let Some(found) = source[at..].find('{') {
        let open = at + found;
        let start = open + 2;
        let (is_block, close) = match source.as_bytes().get(open + 1) {
            Some(b'#') => {
                let Some(end) = source[start..].find("#}") else { break };
                at = start + end + 2;
                continue;
            }
            Some(b'{') => (false, "}}"),
            Some(b'%') => (true, "%}"),
            _ => {
                at = open + 1;
                continue;
            }
        };
        let start = start + usize::from(source[start..].starts_with(['-', '+']));
        let Some((tag, end)) = read_tag(source, start, is_block, close) else { break };
        at = end;
        if tag.name() == "raw" && tag.tokens.len() == 1 {
            let Some(end) = end_of_raw(source, at) else { break };
            at = end;
            continue;
        }
        tags.push(tag);
    }
    tags
}

/// Where the text behind `{% endraw %}` begins.
fn end_of_raw(source: &str, mut at: usize) -> Option<usize> {
    loop {
        at += source[at..].find("{%")? + 2;
        let inner = source[at..].trim_start_matches(['-', '+']).trim_start();
        if let Some(rest) = inner.strip_prefix("endraw")
            && rest.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
        {
            return Some(at + source[at..].find("%}")? + 2);
        }
    }
}

/// The tag whose tokens begin at `at`, and where the text behind it begins.
fn read_tag<'a>(source: &'a str, mut at: usize, is_block: bool, close: &str) -> Option<(Tag<'a>, usize)> {
    let (mut tokens, mut depth) = (Vec::new(), 0_usize);
    loop {
        at += source[at..].len() - source[at..].trim_start().len();
        let rest = &source[at..];
        let unsigned = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        if depth == 0 && (rest.starts_with(close) || unsigned.starts_with(close)) {
            let sign = usize::from(!rest.starts_with(close));
            return Some((Tag { is_block, tokens }, at + sign + close.len()));
        }
        let token = read_token(source, at)?;
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at = token.end();
        tokens.push(token);
    }
}

fn read_token(source: &str, start: usize) -> Option<Token<'_>> {
    let rest = &source[start..];
    let first = rest.chars().next()?;
    let (kind, length) = match first {
        '"' | '\'' => (Kind::Literal, string_length(rest, first)?),
        '0'..='9' => (Kind::Literal, number_length(rest)),
        '_' => (Kind::Name, name_length(rest)),
        first if first.is_alphanumeric() => (Kind::Name, name_length(rest)),
        first => {
            let is_double = ["**", "//", "==", "!=", "<=", ">="].iter().any(|double| rest.starts_with(double));
            (Kind::Operator, if is_double { 2 } else { first.len_utf8() })
        }
    };
    Some(Token { kind, text: &rest[..length], start })
}

fn name_length(text: &str) -> usize {
    text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len())
}

fn string_length(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Length of `12`, `1.5`, `1e-3` or `0xff`; a dot that no digit follows belongs to what comes after.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_hex = text.starts_with("0x") || text.starts_with("0X");
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let next_is_digit = bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        let after_exponent = !is_hex && at > 0 && matches!(bytes[at - 1], b'e' | b'E');
        let goes_on = match byte {
            b'.' => next_is_digit,
            b'+' | b'-' => after_exponent && next_is_digit,
            byte => byte.is_ascii_alphanumeric() || *byte == b'_',
        };
        if !goes_on {
            break;
        }
        at += 1;
    }
    at
}

fn rewrite_generation(tag: &Tag, edits: &mut Vec<Edit>) {
    if let [name] = tag.tokens.as_slice() {
        match tag.name() {
            "generation" => edits.push(Edit::replace(name, "with")),
            "endgeneration" => edits.push(Edit::replace(name, "endwith")),
            _ => {}
        }
    }
}

/// What is known of the operators between one pair of brackets.
#[derive(Default)]
struct Level {
    /// Where the operands joined by `* / // %` begin.
    chain: Option<usize>,
    /// A rewritten `%` waits for the end of its right side.
    is_open: bool,
}

impl Level {
    /// The right side of a `%` ends at `end`.
    fn close(&mut self, end: usize, edits: &mut Vec<Edit>) {
        if std::mem::take(&mut self.is_open) {
            edits.push(Edit::insert(end, ")"));
        }
    }
}

fn rewrite_remainders(tag: &Tag, edits: &mut Vec<Edit>) {
    if !tag.tokens.iter().any(|token| token.text == "%" && token.kind == Kind::Operator) {
        return;
    }
    let mut levels = vec![Level::default()];
    let mut previous: Option<&Token> = None;
    for token in &tag.tokens {
        let end = previous.map_or(token.start, Token::end);
        let follows_operand = previous.is_some_and(Token::ends_operand);
        let after_is = previous.is_some_and(|token| token.text == "is" && token.kind == Kind::Name);
        let Some(level) = levels.last_mut() else { return };
        match (token.kind, token.text) {
            (Kind::Operator, "(" | "[" | "{") => {
                level.chain.get_or_insert(token.start);
                levels.push(Level::default());
            }
            (Kind::Operator, ")" | "]" | "}") => {
                level.close(end, edits);
                levels.pop();
            }
            (Kind::Operator, "%") => {
                level.close(end, edits);
                if let (Some(chain), true) = (level.chain, follows_operand) {
                    // Parentheses opened later at one place must come first; all are alike.
                    edits.push(Edit::insert(chain, "("));
                    let operator = Edit::replace(token, "");
                    edits.push(Edit { text: format!(")|{MOD}(").into(), ..operator });
                    level.is_open = true;
                }
            }
            (Kind::Operator, "*" | "/" | "//") if follows_operand => level.close(end, edits),
            // Parts of an operand; a sign belongs to what follows it.
            (Kind::Operator, "." | "|" | "**") | (Kind::Name, "is") => {}
            (Kind::Operator, "-" | "+") if !follows_operand => {
                level.chain.get_or_insert(token.start);
            }
            (Kind::Name, "not") if after_is => {}
            (Kind::Operator, _) => {
                level.close(end, edits);
                level.chain = None;
            }
            (Kind::Name, name) if KEYWORDS.contains(&name) => {
                level.close(end, edits);
                level.chain = None;
            }
            // The name of the block is no operand.
            (Kind::Name, _) if tag.is_block && previous.is_none() => {}
            (Kind::Name | Kind::Literal, _) => {
                level.chain.get_or_insert(token.start);
            }
        }
        previous = Some(token);
    }
    if let (Some(level), Some(last)) = (levels.first_mut(), previous) {
        level.close(last.end(), edits);
    }
}

fn rewrite_macros(tags: &[Tag], edits: &mut Vec<Edit>) {
    let reads = |tag: &Tag| tag.tokens.iter().any(|t| t.kind == Kind::Name && ANY_ARGUMENTS.contains(&t.text));
    let mut open: Vec<(&Tag, bool)> = Vec::new();
    let mut names = HashSet::new();
    for tag in tags {
        match tag.name() {
            "macro" => open.push((tag, false)),
            "endmacro" => {
                if let Some((head, true)) = open.pop()
                    && let [_, name, _, .., close] = head.tokens.as_slice()
                    && !reads(head)
                {
                    let comma = if head.tokens.len() == 4 { "" } else { ", " };
                    edits.push(Edit::insert(close.start, format!("{comma}varargs=none, kwargs=none")));
                    names.insert(name.text);
                }
            }
            _ if reads(tag) => {
                if let Some((_, is_read)) = open.last_mut() {
                    *is_read = true;
                }
            }
            _ => {}
        }
    }
    for tag in tags.iter().filter(|tag| tag.name() != "macro" && !names.is_empty()) {
        for (index, pair) in tag.tokens.windows(2).enumerate() {
            let [name, bracket] = pair else { continue };
            let is_attribute = index > 0 && matches!(tag.tokens[index - 1].text, "." | "|");
            if names.contains(name.text) && bracket.text == "(" && !is_attribute {
                edits.push(Edit::insert(name.start, format!("{CALL}(")));
                edits.push(Edit { place: bracket.start..bracket.end(), text: ", ".into() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_nothing_is_left_alone() {
        for source in [
            "{{ a }}{% if b %}100% {{ '50%' }}{% endif %}{# {{ a % b }} #}",
            "{% raw %}{{ a % b }}{% generation %}{% endraw %}",
            "{{ {'a': {'b': 1}} }} % {{ '}}' }}",
            "{{ unclosed % ",
            "{%- raw -%} {{ 'x } {%- endraw -%}",
        ] {
            assert!(matches!(rewrite(source), Cow::Borrowed(_)), "{source} → {}", rewrite(source));
        }
    }

    #[test]
    fn remainders() {
        for (source, expected) in [
            ("{{ a % b }}", "{{ (a )|__mod__( b) }}"),
            ("{{ 1 + a % b - 2 }}", "{{ 1 + (a )|__mod__( b) - 2 }}"),
            ("{{ a * b % c * d }}", "{{ (a * b )|__mod__( c) * d }}"),
            ("{{ a % b % c }}", "{{ ((a )|__mod__( b) )|__mod__( c) }}"),
            ("{{ '%s' % (a, b % 2) }}", "{{ ('%s' )|__mod__( (a, (b )|__mod__( 2))) }}"),
            ("{% if loop.index0 % 2 == 0 %}", "{% if (loop.index0 )|__mod__( 2) == 0 %}"),
            ("{%- if not a|length % 2 -%}", "{%- if not (a|length )|__mod__( 2) -%}"),
            ("{% set x = f(a)[0] % -b %}", "{% set x = (f(a)[0] )|__mod__( -b) %}"),
            ("{{ 1e-5 % 2 if -a % b else c }}", "{{ (1e-5 )|__mod__( 2) if (-a )|__mod__( b) else c }}"),
            ("{{ f(*a, **b) ~ x[1 % 2:3] }}", "{{ f(*a, **b) ~ x[(1 )|__mod__( 2):3] }}"),
            ("{{ \"%d\"%x}}", "{{ (\"%d\")|__mod__(x)}}"),
        ] {
            assert_eq!(rewrite(source), expected);
        }
    }

    #[test]
    fn generation_and_macros() {
        for (source, expected) in [
            ("{% generation %}x{%- endgeneration -%}", "{% with %}x{%- endwith -%}"),
            (
                "{% macro m(a) %}{{ varargs }}{% endmacro %}{{ m(1, 2) }}{{ x.m(1) }}",
                "{% macro m(a, varargs=none, kwargs=none) %}{{ varargs }}{% endmacro %}{{ __call__(m, 1, 2) }}{{ x.m(1) }}",
            ),
            (
                "{% macro m() %}{{ kwargs }}{% endmacro %}{% call m() %}{% endcall %}",
                "{% macro m(varargs=none, kwargs=none) %}{{ kwargs }}{% endmacro %}{% call __call__(m, ) %}{% endcall %}",
            ),
        ] {
            assert_eq!(rewrite(source), expected);
        }
        let plain = "{% macro m(kwargs) %}{{ kwargs }}{% endmacro %}{{ m(1) }}";
        assert_eq!(rewrite(plain), plain);
    }
}
