//! What a schema's keywords say about the values of each type.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::Unenforceable;
use super::decimal::Decimal;
use super::references::{Definitions, Place};
use super::shape::{Bound, Kind, Lists, Numbers, Property, Records, Shape, Texts, Typed, Undeclared, least};
use super::text::Pattern;

/// Longest texts and lists that are told apart from endless ones; longer ones are never written.
const MAX_COUNT: usize = 30_000;
/// Most patterns of property names in one object: each set of them is a case of its own.
pub(super) const MAX_PATTERNS: usize = 4;
/// Digits of a divisor.
const MAX_DIVISOR_DIGITS: usize = 9;

type Object = Map<String, Value>;

impl<'a> Definitions<'a> {
    pub(super) fn numbers(
        &mut self,
        place: &Place<'a>,
        map: &Object,
        whole: bool,
    ) -> Result<Option<Numbers>, Unenforceable> {
        let mut numbers = Numbers { whole, ..Numbers::default() };
        for (keyword, strict_keyword, is_low) in
            [("minimum", "exclusiveMinimum", true), ("maximum", "exclusiveMaximum", false)]
        {
            // Draft 4 wrote a boolean beside the bound.
            let exclusive = map.get(strict_keyword) == Some(&Value::Bool(true));
            let bounds = [(keyword, exclusive), (strict_keyword, true)];
            for (keyword, exclusive) in bounds {
                let Some(value) = map.get(keyword).filter(|value| !value.is_boolean()) else { continue };
                let Some(bound) = self.bound(place, keyword, value, is_low)? else { continue };
                let bound = Bound { value: bound, exclusive };
                let only = if is_low {
                    Numbers { low: Some(bound), ..Numbers::default() }
                } else {
                    Numbers { high: Some(bound), ..Numbers::default() }
                };
                match numbers.and(&only) {
                    Some(both) => numbers = both,
                    None => return Ok(None),
                }
            }
        }
        if let Some(value) = map.get("multipleOf") {
            let divisor = value.as_number().and_then(Decimal::new);
            let fits = |divisor: &Decimal| {
                let (whole, fraction) = divisor.num_digits();
                !divisor.is_negative() && !divisor.is_zero() && whole + fraction <= MAX_DIVISOR_DIGITS
            };
            let divisor = divisor.filter(fits);
            if divisor.is_none() {
                let why = format!("must be a number above 0 with at most {MAX_DIVISOR_DIGITS} digits");
                self.refuse(place, "multipleOf", &why)?;
            }
            numbers.multiples_of.extend(divisor);
        }
        Ok(numbers.normal())
    }

    /// A bound's number; `None` for one that bounds nothing.
    fn bound(
        &mut self,
        place: &Place<'a>,
        keyword: &str,
        value: &Value,
        is_low: bool,
    ) -> Result<Option<Decimal>, Unenforceable> {
        let Some(number) = value.as_number() else {
            self.refuse(place, keyword, "must be a number")?;
            return Ok(None);
        };
        // A whole number of more than 64 bits came with its first digits only: the bound is a little narrower.
        let is_cut = |number: f64| number.abs() >= 2f64.powi(63);
        let narrower = number.as_f64().filter(|value| number.is_f64() && is_cut(*value));
        let narrower = narrower.map(|value| if is_low { value.next_up() } else { value.next_down() });
        let number = narrower.and_then(serde_json::Number::from_f64).unwrap_or_else(|| number.clone());
        let number = &number;
        if let Some(decimal) = Decimal::new(number) {
            return Ok(Some(decimal));
        }
        // Too large or too small to be held. Where no number that is written reaches it, it bounds nothing.
        let is_far = Decimal::is_huge(number) && number.as_f64().is_some_and(|number| (number < 0.0) == is_low);
        if !is_far {
            self.refuse(place, keyword, &format!("{number} is a bound with more digits than can be held"))?;
        }
        Ok(is_far.then(|| Decimal::farthest(is_low)))
    }

    /// A count; `None` where there is none.
    fn count(&mut self, place: &Place<'a>, map: &Object, keyword: &str) -> Result<Option<usize>, Unenforceable> {
        let Some(value) = map.get(keyword) else { return Ok(None) };
        let count = value.as_f64().filter(|count| *count >= 0.0 && count.fract() == 0.0);
        if count.is_none() {
            self.refuse(place, keyword, "must be a whole number that is not below 0")?;
        }
        Ok(count.map(|count| count as usize))
    }

    /// Bounds of a count. `None` for the second when there is none; the longest are cut.
    fn counts(
        &mut self,
        place: &Place<'a>,
        map: &Object,
        (least, most): (&str, &str),
    ) -> Result<(usize, Option<usize>), Unenforceable> {
        let mut min = self.count(place, map, least)?.unwrap_or(0);
        if min > MAX_COUNT {
            self.refuse(place, least, &format!("is more than {MAX_COUNT}"))?;
            min = 0;
        }
        Ok((min, self.count(place, map, most)?.map(|max| max.min(MAX_COUNT))))
    }

    pub(super) fn texts(&mut self, place: &Place<'a>, map: &Object) -> Result<Option<Texts>, Unenforceable> {
        let (min, max) = self.counts(place, map, ("minLength", "maxLength"))?;
        let mut texts = Texts { min, max, patterns: Vec::new() };
        if let Some(value) = map.get("pattern") {
            texts.patterns.extend(self.pattern(place, "pattern", value.as_str())?);
        }
        if let Some(format) = map.get("format").and_then(Value::as_str) {
            texts.patterns.extend(Pattern::of_format(format).map(Rc::new));
        }
        let fits = max.is_none_or(|max| min <= max);
        let told = texts.patterns.iter().find_map(|pattern| pattern.texts.clone());
        let is_hopeless = told.is_some_and(|told| !told.iter().any(|text| texts.accept(text)));
        Ok((fits && !is_hopeless).then_some(texts))
    }

    fn pattern(
        &mut self,
        place: &Place<'a>,
        keyword: &str,
        source: Option<&str>,
    ) -> Result<Option<Rc<Pattern>>, Unenforceable> {
        let pattern = source.ok_or_else(|| "must be a text".to_owned()).and_then(Pattern::new);
        match pattern {
            Ok(pattern) => {
                self.spend_for(&pattern)?;
                Ok(Some(Rc::new(pattern)))
            }
            Err(why) => self.refuse(place, keyword, &why).map(|()| None),
        }
    }

    pub(super) fn lists(&mut self, place: &Place<'a>, map: &'a Object) -> Result<Option<Lists>, Unenforceable> {
        let (min, max) = self.counts(place, map, ("minItems", "maxItems"))?;
        let mut lists = Lists { min, max, ..Lists::default() };
        // Before 2020, a list under `items` was what `prefixItems` is now.
        let (first, first_name, others, others_name) = match (map.get("items"), map.get("prefixItems")) {
            (Some(Value::Array(items)), _) => {
                (items.as_slice(), "items", map.get("additionalItems"), "additionalItems")
            }
            (others, Some(Value::Array(items))) => (items.as_slice(), "prefixItems", others, "items"),
            (others, Some(_)) => {
                self.refuse(place, "prefixItems", "must be a list of schemas")?;
                (&[][..], "prefixItems", others, "items")
            }
            (others, None) => (&[][..], "prefixItems", others, "items"),
        };
        for (index, item) in first.iter().enumerate() {
            lists.first.push(self.inner(place, &format!("{first_name}[{index}]"), item)?);
        }
        if let Some(others) = others {
            lists.others = self.inner(place, others_name, others)?;
        }
        if map.get("uniqueItems") == Some(&Value::Bool(true)) {
            lists.unique = Some(place.path.clone());
        }
        // The list ends before an item that cannot be.
        let end = lists.first.iter().position(|item| *item == Shape::Nothing);
        let end = end.or((lists.others == Shape::Nothing).then_some(lists.first.len()));
        lists.max = least(lists.max, end);
        Ok(lists.max.is_none_or(|max| lists.min <= max).then_some(lists))
    }

    pub(super) fn records(&mut self, place: &Place<'a>, map: &'a Object) -> Result<Option<Records>, Unenforceable> {
        let (min, max) = self.counts(place, map, ("minProperties", "maxProperties"))?;
        let mut records = Records { min, max, path: Some(place.path.clone()), ..Records::default() };
        records.names = self.property_names(place, map)?;
        let (mut said, are_all) = self.property_patterns(place, map)?;
        if !are_all {
            // What the patterns allowed must stay allowed.
            said.others = Some(Shape::Any);
        } else if let Some(others) = map.get("additionalProperties") {
            said.others = Some(self.inner(place, "additionalProperties", others)?);
        } else if !said.patterns.is_empty() {
            said.others = Some(Shape::Any);
        }
        let declared = self.object(place, map, "properties")?;
        let required = self.required(place, map)?;
        for (name, schema) in declared.into_iter().flatten() {
            let mut shape = self.inner(place, &format!("properties.{name}"), schema)?;
            for (_, more) in said.patterns.iter().filter(|(pattern, _)| pattern.fits(name)) {
                shape = shape.and(more, self)?;
            }
            if records.names.as_ref().is_some_and(|names| !names.accept(name)) {
                shape = Shape::Nothing;
            }
            let required = required.contains(&name.as_str());
            records.properties.push(Property { name: name.clone(), shape, required, declared: true });
        }
        // Names that can be told one by one are as good as declared.
        let told: Vec<String> =
            said.patterns.iter().filter_map(|(pattern, _)| pattern.texts.clone()).flatten().collect();
        records.undeclared.push(said);
        for name in told {
            self.add(&mut records, &name, false)?;
        }
        for said in &mut records.undeclared {
            said.patterns.retain(|(pattern, _)| pattern.texts.is_none());
        }
        for name in required {
            self.add(&mut records, name, true)?;
        }
        Ok(records.normal())
    }

    /// Adds a property that is not declared, unless it is there already.
    fn add(&mut self, records: &mut Records, name: &str, required: bool) -> Result<(), Unenforceable> {
        if let Some(property) = records.properties.iter_mut().find(|property| property.name == name) {
            property.required |= required;
            return Ok(());
        }
        let shape = records.undeclared_shape(name, self)?;
        records.properties.push(Property { name: name.to_owned(), shape, required, declared: !required });
        Ok(())
    }

    fn object(
        &mut self,
        place: &Place<'a>,
        map: &'a Object,
        keyword: &str,
    ) -> Result<Option<&'a Object>, Unenforceable> {
        match map.get(keyword) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => self.refuse(place, keyword, "must be an object of schemas").map(|()| None),
        }
    }

    fn required(&mut self, place: &Place<'a>, map: &'a Object) -> Result<Vec<&'a str>, Unenforceable> {
        match map.get("required") {
            // Draft 3 and forms of OpenAPI write a boolean beside a property.
            None | Some(Value::Bool(_) | Value::Null) => Ok(Vec::new()),
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                Ok(names.iter().filter_map(Value::as_str).collect())
            }
            Some(_) => self.refuse(place, "required", "must be a list of names").map(|()| Vec::new()),
        }
    }

    /// The patterns of names, and whether these are all of them.
    fn property_patterns(&mut self, place: &Place<'a>, map: &'a Object) -> Result<(Undeclared, bool), Unenforceable> {
        let (mut patterns, mut are_all) = (Vec::new(), true);
        for (source, schema) in self.object(place, map, "patternProperties")?.into_iter().flatten() {
            let path = format!("patternProperties.{source}");
            let shape = self.inner(place, &path, schema)?;
            let pattern = self.pattern(place, &path, Some(source))?;
            are_all &= pattern.is_some();
            patterns.extend(pattern.map(|pattern| (pattern, shape)));
        }
        let endless = patterns.iter().filter(|(pattern, _)| pattern.texts.is_none()).count();
        if endless > MAX_PATTERNS {
            self.refuse(place, "patternProperties", &format!("has more than {MAX_PATTERNS} patterns"))?;
            return Ok((Undeclared::default(), false));
        }
        Ok((Undeclared { patterns, others: None }, are_all))
    }

    /// What names properties may have; `None` for all.
    fn property_names(&mut self, place: &Place<'a>, map: &'a Object) -> Result<Option<Texts>, Unenforceable> {
        let Some(schema) = map.get("propertyNames") else { return Ok(None) };
        let shape = self.inner(place, "propertyNames", schema)?;
        match self.names(&shape)? {
            Some(names) => Ok(Some(names).filter(|names| *names != Texts::default())),
            None => self.refuse(place, "propertyNames", "cannot be enforced").map(|()| None),
        }
    }

    fn names(&mut self, shape: &Shape) -> Result<Option<Texts>, Unenforceable> {
        let of_texts =
            |texts: Vec<String>| Texts { patterns: vec![Rc::new(Pattern::of_texts(texts))], ..Texts::default() };
        Ok(match self.look_through(shape)? {
            Shape::Any => Some(Texts::default()),
            Shape::Literal(Value::String(text)) => Some(of_texts(vec![text])),
            Shape::Nothing | Shape::Literal(_) => Some(of_texts(Vec::new())),
            Shape::Typed(typed) => Some(typed.texts.clone().unwrap_or_else(|| of_texts(Vec::new()))),
            Shape::Union(shapes) => {
                let literals = shapes.iter().map(|shape| match shape {
                    Shape::Literal(value) => Some(value.as_str().map(str::to_owned)),
                    _ => None,
                });
                let literals: Option<Vec<Option<String>>> = literals.collect();
                literals.map(|literals| of_texts(literals.into_iter().flatten().collect()))
            }
            Shape::Reference(_) => None,
        })
    }
}

impl Shape {
    /// Objects with these properties, and all that is no object.
    pub(super) fn requiring<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let property =
            |name: &str| Property { name: name.to_owned(), shape: Self::Any, required: true, declared: false };
        Self::objects(names.into_iter().map(property).collect())
    }

    /// Objects without this property, and all that is no object.
    pub(super) fn lacking(name: &str) -> Self {
        Self::objects(vec![Property { name: name.to_owned(), shape: Self::Nothing, required: false, declared: false }])
    }

    fn objects(properties: Vec<Property>) -> Self {
        let records = Some(Records { properties, ..Records::default() });
        Self::typed(Typed { records, meant: Some(Kind::Records), ..Typed::any() })
    }
}
