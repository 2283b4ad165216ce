//! From shapes to rules of Lark.
//!
//! A lexer of llguidance takes the longest text that any rule allows at a place, so terminals that may stand at the same
//! place must not begin with each other unless they are kept apart by what follows: brackets, commas and keys are
//! terminals of their own everywhere, and strings, numbers and keys end where JSON ends them.

use std::collections::{HashMap, HashSet};

use llguidance::derivre::{RegexAst, RegexBuilder};

use super::accepts::same_value;
use super::references::Definitions;
use super::shape::{Lists, Shape, Texts, Typed};
use super::text::json_string;
use super::write_values::inner;
use super::{Enforcement, Rules, Separators, Unenforceable};

/// What telling may cost whether there is a text of several patterns.
const EMPTINESS_FUEL: u64 = 20_000;
/// Most values of a list whose items must differ.
const MAX_DIFFERENT: usize = 6;

/// Writes rules, each once.
pub(super) struct Writer<'a> {
    pub definitions: Definitions<'a>,
    pub separators: Separators,
    prefix: String,
    lines: Vec<String>,
    names: HashMap<String, String>,
    /// Definitions whose rules are still to be written.
    pending: Vec<usize>,
    referred: HashMap<usize, String>,
    /// Definitions that some finite value satisfies.
    possible: HashSet<usize>,
    /// Whether there is a text by what texts must all be.
    possible_texts: HashMap<String, bool>,
}

impl<'a> Writer<'a> {
    /// `prefix`: of all names.
    pub fn new(definitions: Definitions<'a>, separators: Separators, prefix: &str) -> Self {
        Self {
            definitions,
            separators,
            prefix: prefix.to_owned(),
            lines: Vec::new(),
            names: HashMap::new(),
            pending: Vec::new(),
            referred: HashMap::new(),
            possible: HashSet::new(),
            possible_texts: HashMap::new(),
        }
    }

    /// Writes a schema's shape, and what it refers to.
    ///
    /// # Errors
    /// When nothing can satisfy it, and when it is too large.
    pub fn write(mut self, shape: &Shape) -> Result<Rules, Unenforceable> {
        let start = match self.shape(shape)? {
            Some(start) => start,
            None if self.definitions.enforcement == Enforcement::Hint => self.any_object()?,
            None => return Err(Unenforceable("nothing can satisfy it".to_owned())),
        };
        while let Some(number) = self.pending.pop() {
            let shape = self.definitions.look_through(&Shape::Reference(number))?;
            let name = self.referred[&number].clone();
            let body = self.shape(&shape)?.unwrap_or_else(|| "/[^\\x00-\\x{10FFFF}]/".to_owned());
            self.line(format!("{name}: {body}"))?;
        }
        Ok(Rules { start, lines: self.lines })
    }

    /// The element that stands for a shape's values; `None` when there are none.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn shape(&mut self, shape: &Shape) -> Result<Option<String>, Unenforceable> {
        if !self.is_possible(shape, &mut Vec::new())? {
            return Ok(None);
        }
        self.definitions.spend()?;
        match shape {
            Shape::Nothing => Ok(None),
            Shape::Any => self.any().map(Some),
            Shape::Literal(value) => Ok(Some(literal(&literal_text(value)))),
            Shape::Reference(number) => Ok(Some(self.reference(*number))),
            Shape::Union(shapes) => {
                let (mut parts, mut literals) = (Vec::new(), Vec::new());
                for shape in shapes.iter() {
                    match shape {
                        Shape::Literal(value) => literals.push(literal(&literal_text(value))),
                        shape => parts.extend(self.shape(shape)?),
                    }
                }
                if !literals.is_empty() {
                    parts.push(self.terminal(&literals.join(" | "))?);
                }
                parts.dedup();
                self.rule(&parts.join(" | ")).map(Some)
            }
            Shape::Typed(typed) => self.typed(&typed.as_meant()),
        }
    }

    fn typed(&mut self, typed: &Typed) -> Result<Option<String>, Unenforceable> {
        let mut parts = Vec::new();
        if typed.null {
            parts.push("\"null\"".to_owned());
        }
        if typed.booleans {
            parts.push(self.terminal("\"true\" | \"false\"")?);
        }
        if let Some(numbers) = &typed.numbers {
            parts.extend(self.numbers(numbers)?);
        }
        if let Some(texts) = &typed.texts {
            parts.extend(self.texts(texts)?);
        }
        if let Some(lists) = &typed.lists {
            parts.extend(self.lists(lists)?);
        }
        if let Some(records) = &typed.records {
            parts.extend(self.records(records)?);
        }
        if parts.is_empty() { Ok(None) } else { self.rule(&parts.join(" | ")).map(Some) }
    }

    /// Any JSON value.
    fn any(&mut self) -> Result<String, Unenforceable> {
        let name = format!("{}any", self.prefix);
        if !self.names.contains_key(&name) {
            self.names.insert(name.clone(), name.clone());
            let Typed { numbers, texts, lists, .. } = Typed::any();
            let number = self.numbers(&numbers.unwrap_or_default())?.unwrap_or_default();
            let text = self.texts(&texts.unwrap_or_default())?.unwrap_or_default();
            let list = self.lists(&lists.unwrap_or_default())?.unwrap_or_default();
            let object = self.any_object()?;
            let boolean = self.terminal("\"true\" | \"false\"")?;
            self.line(format!("{name}: \"null\" | {boolean} | {number} | {text} | {list} | {object}"))?;
        }
        Ok(name)
    }

    fn any_object(&mut self) -> Result<String, Unenforceable> {
        self.records(&super::shape::Records::default()).map(Option::unwrap_or_default)
    }

    fn reference(&mut self, number: usize) -> String {
        let name = format!("{}definition_{number}", self.prefix);
        if self.referred.insert(number, name.clone()).is_none() {
            self.pending.push(number);
        }
        name
    }

    fn lists(&mut self, lists: &Lists) -> Result<Option<String>, Unenforceable> {
        if let Some(path) = lists.unique.clone().filter(|_| lists.max.is_none_or(|max| max > 1)) {
            match self.different(lists)? {
                Some(list) => return Ok(Some(list)),
                None => self.definitions.refuse_at(&path, "uniqueItems", "cannot be enforced")?,
            }
        }
        let most = lists.max.unwrap_or(usize::MAX);
        // From the last item that is told by its place to the first.
        let told = lists.first.len().min(most);
        let others = if told < most { self.shape(&lists.others)? } else { None };
        let mut tail = match &others {
            Some(item) if told > 0 => {
                let item = self.after_comma(item)?;
                repeated(&item, lists.min.saturating_sub(told), lists.max.map(|max| max - told))
            }
            Some(item) => {
                let more = self.after_comma(item)?;
                let more = repeated(&more, lists.min.saturating_sub(1), lists.max.map(|max| max - 1));
                let items = self.rule(&format!("{item} {more}"))?;
                if lists.min == 0 { format!("{items}?") } else { items }
            }
            None if lists.min > told => return Ok(None),
            None => String::new(),
        };
        for index in (0..told).rev() {
            let comma = if index == 0 { "" } else { self.separators.comma };
            tail = match self.shape(&lists.first[index])? {
                Some(item) => self.rule(&format!("{comma} {item} {tail}"))?,
                None if index < lists.min => return Ok(None),
                None => String::new(),
            };
            if index >= lists.min && !tail.is_empty() {
                tail.push('?');
            }
        }
        self.rule(&format!("\"[\" {tail} \"]\"")).map(Some)
    }

    /// A list of different items, where there are few that it may hold: a rule for each set of those that are left.
    fn different(&mut self, lists: &Lists) -> Result<Option<String>, Unenforceable> {
        let shape = self.definitions.look_through(&lists.others)?;
        let Shape::Union(shapes) = &shape else { return Ok(None) };
        let mut different: Vec<&serde_json::Value> = Vec::new();
        for shape in shapes.iter() {
            let Shape::Literal(value) = shape else { return Ok(None) };
            if !different.iter().any(|known| same_value(known, value)) {
                different.push(value);
            }
        }
        let values: Vec<String> = different.into_iter().map(|value| literal(&literal_text(value))).collect();
        let most = lists.max.unwrap_or(usize::MAX).min(values.len());
        if !lists.first.is_empty() || values.len() > MAX_DIFFERENT || lists.min > most {
            return Ok(None);
        }
        // By the set of items that were written, from all to none.
        let mut rules: Vec<String> = vec![String::new(); 1 << values.len()];
        for set in (0..rules.len()).rev() {
            let count = set.count_ones() as usize;
            let comma = if count == 0 { "" } else { self.separators.comma };
            let mut parts = Vec::new();
            for (index, value) in values.iter().enumerate().filter(|(index, _)| set >> index & 1 == 0) {
                if count < most {
                    parts.push(format!("{comma} {value} {}", rules[set | 1 << index]));
                }
            }
            if count >= lists.min {
                parts.push("\"]\"".to_owned());
            }
            rules[set] = if count > most { "\"]\"".to_owned() } else { self.rule(&parts.join(" | "))? };
        }
        self.rule(&format!("\"[\" {}", rules[0])).map(Some)
    }

    /// Whether some finite value satisfies a shape. `within`: definitions being looked at.
    pub fn is_possible(&mut self, shape: &Shape, within: &mut Vec<usize>) -> Result<bool, Unenforceable> {
        self.definitions.spend()?;
        match shape {
            Shape::Nothing => Ok(false),
            Shape::Any | Shape::Literal(_) => Ok(true),
            Shape::Reference(number) => {
                if self.possible.contains(number) {
                    return Ok(true);
                }
                if within.contains(number) {
                    return Ok(false);
                }
                within.push(*number);
                let shape = self.definitions.resolve(*number)?;
                let is_possible = self.is_possible(&shape, within)?;
                within.pop();
                if is_possible {
                    self.possible.insert(*number);
                }
                Ok(is_possible)
            }
            Shape::Union(shapes) => {
                for shape in shapes.iter() {
                    if self.is_possible(shape, within)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Shape::Typed(typed) => {
                let typed = typed.as_meant();
                let has_number = match &typed.numbers {
                    Some(numbers) => self.numbers(numbers)?.is_some(),
                    None => false,
                };
                let has_text = typed.texts.as_ref().is_some_and(|texts| self.are_possible(texts));
                if typed.null || typed.booleans || has_number || has_text {
                    return Ok(true);
                }
                if let Some(lists) = &typed.lists {
                    let mut all = true;
                    for index in 0..lists.min.min(lists.first.len() + 1) {
                        all = all && self.is_possible(lists.item(index), within)?;
                    }
                    if all {
                        return Ok(true);
                    }
                }
                let Some(records) = &typed.records else { return Ok(false) };
                let mut possible = 0;
                for property in records.properties.iter().filter(|property| property.required || records.min > 0) {
                    let is_possible = self.is_possible(&property.shape, within)?;
                    if property.required && !is_possible {
                        return Ok(false);
                    }
                    possible += usize::from(is_possible);
                }
                Ok(!records.is_closed() || possible >= records.min)
            }
        }
    }

    /// Whether some text is of all patterns and of a length that is allowed; where that takes too long to tell, yes.
    fn are_possible(&mut self, texts: &Texts) -> bool {
        if let Some(told) = texts.patterns.iter().find_map(|pattern| pattern.texts.as_ref()) {
            return told.iter().any(|text| texts.accept(text));
        }
        let parts = inner(texts);
        if parts.len() < 2 {
            return true;
        }
        let key = parts.join(" & ");
        *self.possible_texts.entry(key).or_insert_with(|| {
            let parts = parts.iter().map(|part| RegexAst::Regex(part[1..part.len() - 1].to_owned()));
            let mut builder = RegexBuilder::new();
            let empty = builder
                .mk(&RegexAst::And(parts.collect()))
                .and_then(|all| builder.to_regex_limited(all, EMPTINESS_FUEL))
                .map(|mut regex| regex.always_empty());
            !empty.unwrap_or(false)
        })
    }

    /// A rule of a comma and what follows it.
    ///
    /// # Errors
    /// As [`rule`](Self::rule).
    pub fn after_comma(&mut self, element: &str) -> Result<String, Unenforceable> {
        self.rule(&format!("{} {element}", self.separators.comma))
    }

    /// The name of a rule, new or known. A single element needs none.
    ///
    /// # Errors
    /// When there are too many rules.
    pub fn rule(&mut self, body: &str) -> Result<String, Unenforceable> {
        let body = body.trim();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !body.is_empty() && body.bytes().all(is_name) {
            return Ok(body.to_owned());
        }
        self.named(body, "rule")
    }

    /// The name of a terminal, new or known.
    ///
    /// # Errors
    /// As [`rule`](Self::rule).
    pub fn terminal(&mut self, body: &str) -> Result<String, Unenforceable> {
        self.named(body, "TERMINAL")
    }

    fn named(&mut self, body: &str, kind: &str) -> Result<String, Unenforceable> {
        let body = if body.is_empty() { "\"\"" } else { body };
        let key = format!("{kind}: {body}");
        if let Some(name) = self.names.get(&key) {
            return Ok(name.clone());
        }
        let name = format!("{}{kind}_{}", self.prefix, self.lines.len());
        let name = if kind == "TERMINAL" { name.to_uppercase() } else { name };
        self.line(format!("{name}: {body}"))?;
        self.names.insert(key, name.clone());
        Ok(name)
    }

    fn line(&mut self, line: String) -> Result<(), Unenforceable> {
        self.definitions.spend_line(&line)?;
        self.lines.push(line);
        Ok(())
    }
}

/// An element, so often.
pub(super) fn repeated(element: &str, min: usize, max: Option<usize>) -> String {
    match (min, max) {
        (_, Some(0)) => String::new(),
        (0, None) => format!("{element}*"),
        (min, None) => format!("{element}{{{min},}}"),
        (1, Some(1)) => element.to_owned(),
        (min, Some(max)) => format!("{element}{{{min},{max}}}"),
    }
}

/// A literal of Lark, which wants what JSON leaves as it is escaped.
pub(crate) fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A value that is no list nor object, as it is written.
fn literal_text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), json_string)
}
