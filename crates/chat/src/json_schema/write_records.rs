//! Objects as rules of Lark: properties in their order, those that may be missing, and those that nobody declared.

use std::rc::Rc;

use super::read_types::MAX_PATTERNS;
use super::shape::{Records, Shape, Undeclared};
use super::text::{CHARACTER, Pattern, json_string};
use super::write::{Writer, literal, repeated};
use super::write_values::inner;
use super::{Enforcement, Unenforceable};

/// Most rules that count properties.
const MAX_COUNTED: usize = 8_000;

/// A property's rule, and whether it must be there.
struct Item {
    rule: String,
    required: bool,
}

/// How many properties there may be.
struct Counts {
    /// Least number of properties beside the required ones.
    least: usize,
    /// Most of them.
    most: Option<usize>,
}

impl Writer<'_> {
    /// An element of objects; `None` when there are none.
    pub(super) fn records(&mut self, records: &Records) -> Result<Option<String>, Unenforceable> {
        let mut items = Vec::new();
        for property in &records.properties {
            match self.shape(&property.shape)? {
                Some(value) => {
                    let key = literal(&format!("{}{}", json_string(&property.name), self.separators.colon));
                    items.push(Item { rule: self.rule(&format!("{key} {value}"))?, required: property.required });
                }
                None if property.required => return Ok(None),
                None => {}
            }
        }
        let other = if records.is_closed() { None } else { self.undeclared(records)? };
        let num_required = items.iter().filter(|item| item.required).count();
        let num_optional = items.len() - num_required;
        if records.max.is_some_and(|max| max < num_required) {
            return Ok(None);
        }
        let counts =
            Counts { least: records.min.saturating_sub(num_required), most: records.max.map(|max| max - num_required) };
        let is_counted = counts.least > 0 || counts.most.is_some_and(|most| other.is_some() || most < num_optional);
        let body = if is_counted {
            self.counted(records, &items, other.as_deref(), &counts)?
        } else {
            Some(self.uncounted(&items, other.as_deref())?)
        };
        body.map(|body| self.rule(&format!("\"{{\" {body} \"}}\""))).transpose()
    }

    fn uncounted(&mut self, items: &[Item], other: Option<&str>) -> Result<String, Unenforceable> {
        let comma = self.separators.comma;
        let (mut others, mut only_others) = (String::new(), None);
        if let Some(other) = other {
            let more = self.after_comma(other)?;
            others = format!("{more}*");
            only_others = Some(format!("{other} {others}"));
        }
        // What may be missing before the first that may not brings its comma along.
        if let Some(first) = items.iter().position(|item| item.required) {
            let mut parts = Vec::new();
            for (index, Item { rule, required }) in items.iter().enumerate() {
                parts.push(match index {
                    index if index == first => rule.clone(),
                    index if index < first => format!("{}?", self.rule(&format!("{rule} {comma}"))?),
                    _ if *required => format!("{comma} {rule}"),
                    _ => format!("{}?", self.after_comma(rule)?),
                });
            }
            return Ok(format!("{} {others}", parts.join(" ")));
        }
        // Any may be the first; a rule for what may follow each.
        let mut rest = others;
        let mut firsts: Vec<String> = only_others.into_iter().collect();
        for Item { rule, .. } in items.iter().rev() {
            firsts.push(format!("{rule} {rest}"));
            let more = self.after_comma(rule)?;
            rest = self.rule(&format!("{more}? {rest}"))?;
        }
        firsts.reverse();
        if firsts.is_empty() {
            return Ok(String::new());
        }
        Ok(format!("{}?", self.rule(&firsts.join(" | "))?))
    }

    /// Rules that count the properties which may be missing.
    fn counted(
        &mut self,
        records: &Records,
        items: &[Item],
        other: Option<&str>,
        counts: &Counts,
    ) -> Result<Option<String>, Unenforceable> {
        let num_optional = items.iter().filter(|item| !item.required).count();
        // Beyond this many, counting on changes nothing.
        let top = counts.most.map_or(counts.least, |most| most + 1).min(num_optional);
        if (top + 1) * (items.len() + 1) > MAX_COUNTED {
            self.definitions.refuse_at(records.path.as_deref().unwrap_or_default(), "minProperties", "is too large")?;
            return self.uncounted(items, other).map(Some);
        }
        // What may follow by the number of optional properties so far, with a comma in front and without.
        let mut after = Vec::new();
        for count in 0..=top {
            after.push((self.others(other, counts, count, true)?, self.others(other, counts, count, false)?));
        }
        for item in items.iter().rev() {
            let mut before = Vec::new();
            for count in 0..=top {
                let next = if item.required { count } else { (count + 1).min(top) };
                let saturated = counts.most.is_some_and(|most| !item.required && count + 1 > most);
                let taken = after[next].0.clone().filter(|_| !saturated);
                let mut rules = [None, None];
                let comma = self.separators.comma;
                for (rule, (comma, skipped)) in rules.iter_mut().zip([(comma, &after[count].0), ("", &after[count].1)])
                {
                    let with = taken.as_ref().map(|taken| format!("{comma} {} {taken}", item.rule));
                    let without = skipped.clone().filter(|_| !item.required);
                    let parts: Vec<String> = with.into_iter().chain(without).collect();
                    *rule = if parts.is_empty() { None } else { Some(self.rule(&parts.join(" | "))?) };
                }
                let [with_comma, first] = rules;
                before.push((with_comma, first));
            }
            after = before;
        }
        let body = after.swap_remove(0).1;
        if body.is_none() && counts.least > 1 && other.is_some() {
            let path = records.path.clone().unwrap_or_default();
            let why = "cannot be enforced: names that nobody declared may repeat; declare the properties";
            self.definitions.refuse_at(&path, "minProperties", why)?;
            return self.uncounted(items, other).map(Some);
        }
        Ok(body)
    }

    /// Undeclared properties at the end, after so many optional ones; `None` when no number of them will do.
    fn others(
        &mut self,
        other: Option<&str>,
        counts: &Counts,
        count: usize,
        comma: bool,
    ) -> Result<Option<String>, Unenforceable> {
        let least = counts.least.saturating_sub(count);
        let most = counts.most.map(|most| most.checked_sub(count));
        let most = match most {
            Some(None) => return Ok(None),
            Some(most) => most,
            None => None,
        };
        // Two names that nobody declared may be one name twice.
        let is_sure = least <= 1 || self.definitions.enforcement == Enforcement::Hint;
        match other {
            None => Ok((least == 0).then(|| "\"\"".to_owned())),
            Some(_) if !is_sure || most.is_some_and(|most| most < least) => Ok(None),
            Some(_) if most == Some(0) => Ok(Some("\"\"".to_owned())),
            Some(other) => {
                let more = self.after_comma(other)?;
                if comma {
                    return self.rule(&repeated(&more, least, most)).map(Some);
                }
                let rest = repeated(&more, least.saturating_sub(1), most.map(|most| most - 1));
                let first = self.rule(&format!("{other} {rest}"))?;
                Ok(Some(if least == 0 { self.rule(&format!("{first} | \"\""))? } else { first }))
            }
        }
    }

    /// A rule of one property that nobody declared; `None` when there are none.
    fn undeclared(&mut self, records: &Records) -> Result<Option<String>, Unenforceable> {
        let mut patterns: Vec<Rc<Pattern>> = Vec::new();
        for (pattern, _) in records.undeclared.iter().flat_map(|said| &said.patterns) {
            if !patterns.contains(pattern) {
                patterns.push(Rc::clone(pattern));
            }
        }
        if patterns.len() > MAX_PATTERNS {
            let path = records.path.as_deref().unwrap_or_default();
            let why = format!("are more than {MAX_PATTERNS} patterns together");
            self.definitions.refuse_at(path, "patternProperties", &why)?;
            return self.undeclared(&Records { undeclared: vec![Undeclared::default()], ..records.clone() });
        }
        let mut parts = Vec::new();
        // Which of the patterns a name fits decides what its value may be.
        for fitting in 0..1usize << patterns.len() {
            let fits = |pattern: &Rc<Pattern>| {
                patterns.iter().position(|known| known == pattern).is_some_and(|index| fitting >> index & 1 == 1)
            };
            let mut shape = Shape::Any;
            for said in &records.undeclared {
                let mut is_told = false;
                for (_, part) in said.patterns.iter().filter(|(pattern, _)| fits(pattern)) {
                    is_told = true;
                    shape = shape.and(part, &mut self.definitions)?;
                }
                if let Some(others) = said.others.as_ref().filter(|_| !is_told) {
                    shape = shape.and(others, &mut self.definitions)?;
                }
            }
            let Some(value) = self.shape(&shape)? else { continue };
            let key = self.undeclared_key(records, &patterns, fitting)?;
            parts.extend(key.map(|key| format!("{key} {value}")));
        }
        if parts.is_empty() { Ok(None) } else { self.rule(&parts.join(" | ")).map(Some) }
    }

    /// A terminal of the names that nobody declared and that fit just these patterns.
    fn undeclared_key(
        &mut self,
        records: &Records,
        patterns: &[Rc<Pattern>],
        fitting: usize,
    ) -> Result<Option<String>, Unenforceable> {
        let mut all = vec![format!("/{CHARACTER}*/")];
        if let Some(names) = &records.names {
            if let Some(told) = names.patterns.iter().find_map(|pattern| pattern.texts.as_ref()) {
                let left = |name: &&String| names.accept(name) && records.property(name).is_none();
                if !told.iter().any(|name| left(&name)) {
                    return Ok(None);
                }
            }
            all.extend(inner(names));
        }
        for (index, pattern) in patterns.iter().enumerate() {
            let sign = if fitting >> index & 1 == 1 { "" } else { "~" };
            all.push(format!("{sign}{}", pattern.quoted));
        }
        if !records.properties.is_empty() {
            let spelled = |name: &str| {
                let quoted = json_string(name);
                literal(&quoted[1..quoted.len() - 1])
            };
            let names: Vec<String> = records.properties.iter().map(|property| spelled(&property.name)).collect();
            all.push(format!("~({})", names.join(" | ")));
        }
        let close = literal(&format!("\"{}", self.separators.colon));
        self.terminal(&format!("\"\\\"\" ({}) {close}", all.join(" & "))).map(Some)
    }
}
