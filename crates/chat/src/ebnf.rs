//! Grammars in EBNF (`root ::= …`), as vLLM, XGrammar and llama.cpp take them, rewritten as Lark.
//!
//! EBNF knows no lexer: every character is its own. A lexer that takes the longest text would cut such grammars where
//! they mean something else, so a grammar without recursion becomes one terminal, and one with recursion is written
//! character by character.

use std::collections::HashMap;

use crate::json_schema::{ecma_to_rust, literal};
use crate::text_rules;

/// Bounds of a grammar.
const MAX_REPEAT: usize = 1000;
const MAX_DEPTH: usize = 100;
const MAX_TERMINAL_BYTES: usize = 64 << 10;
/// Deepest nesting of what becomes one terminal, rules within rules included.
const MAX_REGEX_DEPTH: usize = 150;

/// Whether a grammar is written in EBNF.
pub(crate) fn is_ebnf(text: &str) -> bool {
    text.lines().any(|line| {
        let name = line.split("::=").next().filter(|name| name.len() < line.len());
        name.is_some_and(|name| is_name(name.trim()))
    })
}

fn is_name(text: &str) -> bool {
    text.chars().next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Rewrites a grammar.
///
/// # Errors
/// What is wrong with it, in plain words.
pub(crate) fn to_lark(text: &str) -> Result<String, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let mut rules = Vec::new();
    let mut numbers = HashMap::new();
    while parser.at < parser.tokens.len() {
        let (name, part) = parser.rule()?;
        if numbers.insert(name.clone(), rules.len()).is_some() {
            return Err(format!("defines {name:?} twice"));
        }
        rules.push(part);
    }
    let root = *numbers.get("root").ok_or("has no rule named root")?;
    let grammar = Grammar { rules, numbers };
    grammar.check()?;
    if let Some(regex) = grammar.regex(&grammar.rules[root], &mut vec![root], (MAX_TERMINAL_BYTES, MAX_REGEX_DEPTH)) {
        return Ok(format!("start: ROOT\nROOT: {}", text_rules::regex(&regex)));
    }
    let mut lines = vec![format!("start: rule_{root}")];
    for (number, part) in grammar.rules.iter().enumerate() {
        lines.push(format!("rule_{number}: {}", grammar.lark(part)));
    }
    Ok(lines.join("\n"))
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Class(String),
    Sign(char),
    Define,
    /// How often the part before it stands: least and most.
    Count(usize, Option<usize>),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            _ if character.is_whitespace() => {}
            '#' => while rest.next().is_some_and(|character| character != '\n') {},
            '"' | '\'' => tokens.push(Token::Text(string(&mut rest, character)?)),
            '[' => tokens.push(Token::Class(class(&mut rest)?)),
            ':' => {
                if (rest.next(), rest.next()) != (Some(':'), Some('=')) {
                    return Err("has a \":\" that is not part of \"::=\"".to_owned());
                }
                tokens.push(Token::Define);
            }
            '{' => {
                let inside: String = rest.by_ref().take_while(|character| *character != '}').collect();
                tokens.push(count(&inside)?);
            }
            '*' => tokens.push(Token::Count(0, None)),
            '+' => tokens.push(Token::Count(1, None)),
            '?' => tokens.push(Token::Count(0, Some(1))),
            '(' | ')' | '|' | '.' => tokens.push(Token::Sign(character)),
            _ if character.is_ascii_alphabetic() || character == '_' => {
                let mut name = String::from(character);
                while let Some(next) = rest.next_if(|next| next.is_ascii_alphanumeric() || "_-".contains(*next)) {
                    name.push(next);
                }
                tokens.push(Token::Name(name));
            }
            _ => return Err(format!("has {character:?} where a name, a text or an operator should stand")),
        }
    }
    Ok(tokens)
}

fn count(inside: &str) -> Result<Token, String> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number <= MAX_REPEAT);
    let parsed = match inside.split_once(',') {
        None => number(inside).map(|count| (count, Some(count))),
        Some((least, most)) if most.trim().is_empty() => number(least).map(|least| (least, None)),
        Some((least, most)) => number(least).zip(number(most)).map(|(least, most)| (least, Some(most))),
    };
    match parsed {
        Some((least, most)) if most.is_none_or(|most| least <= most) => Ok(Token::Count(least, most)),
        _ => Err(format!("has {{{inside}}}, which is no count up to {MAX_REPEAT}")),
    }
}

fn string(rest: &mut impl Iterator<Item = char>, quote: char) -> Result<String, String> {
    let mut text = String::new();
    loop {
        match rest.next() {
            Some(character) if character == quote => return Ok(text),
            Some('\\') => text.push(escaped(rest)?),
            Some(character) => text.push(character),
            None => return Err("has a text that does not end".to_owned()),
        }
    }
}

fn escaped(rest: &mut impl Iterator<Item = char>) -> Result<char, String> {
    let letter = rest.next().ok_or("ends within a text")?;
    let digits = match letter {
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        other => return Ok(other),
    };
    let text: String = rest.take(digits).collect();
    let number = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits);
    number.and_then(char::from_u32).ok_or_else(|| format!("has \\{letter}{text}, which is no character"))
}

/// A class of characters, as a regular expression.
fn class(rest: &mut impl Iterator<Item = char>) -> Result<String, String> {
    let mut source = String::from("[");
    loop {
        match rest.next() {
            Some(']') => break,
            Some('\\') => {
                source.push('\\');
                source.push(rest.next().ok_or("has a class that does not end")?);
            }
            Some(character) => source.push(character),
            None => return Err("has a class that does not end".to_owned()),
        }
    }
    let class = ecma_to_rust(&(source + "]"));
    match regex_syntax::parse(&class) {
        Ok(_) => Ok(class),
        Err(_) => Err(format!("has {class}, which is no class of characters")),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Class(String),
    Name(String),
    All(Vec<Part>),
    Any(Vec<Part>),
    Repeat(Box<Part>, usize, Option<usize>),
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn rule(&mut self) -> Result<(String, Part), String> {
        match &self.tokens[self.at..] {
            [Token::Name(name), Token::Define, ..] => {
                let name = name.clone();
                self.at += 2;
                Ok((name, self.any(0)?))
            }
            _ => Err("has something that is no rule \"name ::= …\"".to_owned()),
        }
    }

    fn any(&mut self, depth: usize) -> Result<Part, String> {
        if depth > MAX_DEPTH {
            return Err("is nested too deeply".to_owned());
        }
        let mut parts = vec![self.all(depth)?];
        while self.tokens.get(self.at) == Some(&Token::Sign('|')) {
            self.at += 1;
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Part::Any(parts) })
    }

    fn all(&mut self, depth: usize) -> Result<Part, String> {
        let mut parts = Vec::new();
        while let Some(token) = self.tokens.get(self.at) {
            let part = match token {
                // The next rule begins.
                Token::Name(_) if self.tokens.get(self.at + 1) == Some(&Token::Define) => break,
                Token::Name(name) => Part::Name(name.clone()),
                Token::Text(text) => Part::Text(text.clone()),
                Token::Class(class) => Part::Class(class.clone()),
                Token::Sign('.') => Part::Class("(?s:.)".to_owned()),
                Token::Sign('(') => {
                    self.at += 1;
                    let part = self.any(depth + 1)?;
                    if self.tokens.get(self.at) != Some(&Token::Sign(')')) {
                        return Err("has a \"(\" without its \")\"".to_owned());
                    }
                    part
                }
                Token::Count(least, most) => {
                    let part = parts.pop().ok_or("has a repetition with nothing before it")?;
                    if matches!(&part, Part::Repeat(inner, ..) if matches!(**inner, Part::Repeat(..))) {
                        return Err("repeats a repetition more than once".to_owned());
                    }
                    Part::Repeat(Box::new(part), *least, *most)
                }
                Token::Sign(_) => break,
                Token::Define => return Err("has \"::=\" without a name before it".to_owned()),
            };
            parts.push(part);
            self.at += 1;
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Part::All(parts) })
    }
}

struct Grammar {
    rules: Vec<Part>,
    numbers: HashMap<String, usize>,
}

impl Grammar {
    fn check(&self) -> Result<(), String> {
        let mut parts: Vec<&Part> = self.rules.iter().collect();
        while let Some(part) = parts.pop() {
            match part {
                Part::Name(name) if !self.numbers.contains_key(name) => {
                    return Err(format!("uses {name:?}, which no rule defines"));
                }
                Part::All(inside) | Part::Any(inside) => parts.extend(inside),
                Part::Repeat(inside, ..) => parts.push(inside),
                _ => {}
            }
        }
        Ok(())
    }

    /// The part as a regular expression of so many bytes and levels; `None` when it is recursive or larger.
    fn regex(&self, part: &Part, within: &mut Vec<usize>, (room, depth): (usize, usize)) -> Option<String> {
        let depth = depth.checked_sub(1)?;
        let join = |parts: &[Part], between: &str, within: &mut Vec<usize>| {
            let mut joined = String::from("(?:");
            for (index, part) in parts.iter().enumerate() {
                joined.push_str(if index == 0 { "" } else { between });
                joined.push_str(&self.regex(part, within, (room.checked_sub(joined.len())?, depth))?);
            }
            Some(joined + ")")
        };
        let regex = match part {
            Part::Text(text) => regex_syntax::escape(text),
            Part::Class(class) => class.clone(),
            Part::All(parts) => join(parts, "", within)?,
            Part::Any(parts) => join(parts, "|", within)?,
            Part::Name(name) => {
                let number = self.numbers[name];
                if within.contains(&number) {
                    return None;
                }
                within.push(number);
                let regex = self.regex(&self.rules[number], within, (room, depth))?;
                within.pop();
                regex
            }
            Part::Repeat(part, least, most) => {
                let most = most.map_or_else(String::new, |most| most.to_string());
                format!("(?:{}){{{least},{most}}}", self.regex(part, within, (room, depth))?)
            }
        };
        (regex.len() <= room).then_some(regex)
    }

    /// The part in Lark, character by character.
    fn lark(&self, part: &Part) -> String {
        let join = |parts: &[Part], between: &str| {
            let parts: Vec<String> = parts.iter().map(|part| self.lark(part)).collect();
            format!("({})", parts.join(between))
        };
        match part {
            Part::Text(text) if text.is_empty() => "\"\"".to_owned(),
            Part::Text(text) => {
                let characters: Vec<String> = text.chars().map(|character| literal(&character.to_string())).collect();
                format!("({})", characters.join(" "))
            }
            Part::Class(class) => text_rules::regex(class),
            Part::Name(name) => format!("rule_{}", self.numbers[name]),
            Part::All(parts) if parts.is_empty() => "\"\"".to_owned(),
            Part::All(parts) => join(parts, " "),
            Part::Any(parts) => join(parts, " | "),
            Part::Repeat(part, least, most) => {
                let most = most.map_or_else(String::new, |most| most.to_string());
                format!("({}){{{least},{most}}}", self.lark(part))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars_without_recursion_are_one_terminal() {
        assert!(is_ebnf("root ::= \"yes\" | \"no\"") && is_ebnf("# x\n  root  ::=\n \"a\""));
        assert!(!is_ebnf("start: \"a\" // ::=") && !is_ebnf("start: \"::=\""));
        assert_eq!(to_lark("root ::= \"yes\" | \"no\"").unwrap(), "start: ROOT\nROOT: /(?:yes|no)/");
        let grammar = "root ::= name (\", \" name){0,2} # names\nname ::= [A-Z] [a-z]+\n  | \"X/Y\"";
        assert_eq!(
            to_lark(grammar).unwrap(),
            r"start: ROOT
ROOT: /(?:(?:(?:[A-Z](?:[a-z]){1,})|X\/Y)(?:(?:, (?:(?:[A-Z](?:[a-z]){1,})|X\/Y))){0,2})/"
        );
    }

    #[test]
    fn recursion_is_written_character_by_character() {
        let lark = to_lark("root ::= \"(a\" root? \")\"\n").unwrap();
        assert_eq!(lark, "start: rule_0\nrule_0: ((\"(\" \"a\") (rule_0){0,1} (\")\"))");
    }

    #[test]
    fn mistakes_are_named() {
        for (grammar, message) in [
            ("a ::= \"x\"", "no rule named root"),
            ("root ::= b", "\"b\", which no rule defines"),
            ("root ::= \"x", "does not end"),
            ("root ::= (\"x\"", "without its"),
            ("root ::= *", "nothing before it"),
            ("root ::= \"a\"{5,2}", "no count"),
            ("root ::= \"a\"{99999}", "no count"),
            ("root ::= [z-a]", "no class"),
            ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
            ("root ::= ~", "'~'"),
        ] {
            let error = to_lark(grammar).unwrap_err();
            assert!(error.contains(message), "{grammar}: {error}");
        }
        assert!(to_lark(&format!("root ::= {}\"a\"{}", "(".repeat(5000), ")".repeat(5000))).is_err());
        assert!(to_lark(&format!("root ::= \"a\"{}", "*".repeat(100_000))).is_err());
        let chain: Vec<String> = (0..5000).map(|n| format!("r{n} ::= ((r{}))", n + 1)).collect();
        let chained = to_lark(&format!("root ::= r0\n{}\nr5000 ::= \"a\"", chain.join("\n"))).unwrap();
        assert!(chained.starts_with("start: rule_0"));
    }
}
