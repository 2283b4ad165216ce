//! Whether a shape allows a value, and whether two shapes exclude each other.

use serde_json::Value;

use super::Unenforceable;
use super::decimal::Decimal;
use super::references::Definitions;
use super::shape::{Lists, Numbers, Property, Records, Shape, Texts, Typed, Undeclared};

/// Equal as JSON Schema has it: 1 and 1.0 are one number.
pub(super) fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || (Decimal::new(a).is_some() && Decimal::new(a) == Decimal::new(b))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same_value(a, b)))
        }
        _ => a == b,
    }
}

impl Shape {
    /// Whether a value is among those allowed.
    ///
    /// # Errors
    /// When that takes more work than a schema may cause.
    pub fn accepts(&self, value: &Value, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        definitions.spend()?;
        match self {
            Self::Any => Ok(true),
            Self::Nothing => Ok(false),
            Self::Literal(literal) => Ok(same_value(literal, value)),
            Self::Reference(number) => {
                let shape = definitions.resolve(*number)?;
                definitions.nested(|definitions| shape.accepts(value, definitions))
            }
            Self::Union(shapes) => {
                for shape in shapes.iter() {
                    if shape.accepts(value, definitions)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Typed(typed) => typed.accepts(value, definitions),
        }
    }

    /// Whether no answer that is written after this shape is valid by the other. What is not certain is none.
    ///
    /// # Errors
    /// When that takes more work than a schema may cause.
    pub fn excludes(&self, other: &Self, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        self.excludes_as(other, Depth::Top, definitions)
    }

    fn excludes_as(&self, other: &Self, depth: Depth, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        definitions.spend()?;
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) => Ok(true),
            (Self::Reference(a), Self::Reference(b)) if a == b => Ok(false),
            // Definitions inside may lead back to what is being compared.
            (Self::Reference(_), _) | (_, Self::Reference(_)) if depth == Depth::Inside => Ok(false),
            (Self::Reference(number), other) => {
                let shape = definitions.resolve(*number)?;
                definitions.nested(|definitions| shape.excludes_as(other, depth, definitions))
            }
            (shape, Self::Reference(number)) => {
                let other = definitions.resolve(*number)?;
                definitions.nested(|definitions| shape.excludes_as(&other, depth, definitions))
            }
            (Self::Union(shapes), other) => all(shapes.iter(), |shape| shape.excludes_as(other, depth, definitions)),
            (shape, Self::Union(others)) => all(others.iter(), |other| shape.excludes_as(other, depth, definitions)),
            (Self::Any, _) | (_, Self::Any) => Ok(false),
            (Self::Literal(value), other) | (other, Self::Literal(value)) => {
                Ok(!other.without_doubts(value).accepts(value, definitions)?)
            }
            (Self::Typed(a), Self::Typed(b)) => a.excludes(b, depth, definitions),
        }
    }

    /// A shape that surely accepts a value unless the value is not valid: formats are wider than what is written of them,
    /// and numbers of very many digits are not divided.
    fn without_doubts(&self, value: &Value) -> Self {
        let Self::Typed(typed) = self else { return self.clone() };
        let mut typed = Typed::clone(typed);
        if let Some(numbers) = &mut typed.numbers {
            numbers.multiples_of.clear();
            if value.as_number().is_some_and(|number| Decimal::new(number).is_none()) {
                return Self::Any;
            }
        }
        if let Some(texts) = &mut typed.texts {
            texts.patterns.retain(|pattern| !pattern.is_format);
        }
        Self::typed(typed)
    }

    /// Forbids what makes this shape's answers valid by another one too, where a missing property can tell them apart.
    ///
    /// # Errors
    /// As [`excludes`](Self::excludes).
    pub fn apart_from(&self, other: &Self, definitions: &mut Definitions) -> Result<Self, Unenforceable> {
        if self.excludes(other, definitions)? {
            return Ok(self.clone());
        }
        let (own, other) = (definitions.look_through(self)?, definitions.look_through(other)?);
        let (Self::Typed(own), Self::Typed(other)) = (&own, &other) else { return Ok(self.clone()) };
        let (Some(records), Some(opposed)) = (&own.records, &other.records) else { return Ok(self.clone()) };
        // A constant of each, such as a kind with a default, tells them apart once it is there.
        for property in &records.properties {
            if let Some(opposed) = opposed.property(&property.name)
                && property.shape != Self::Nothing
                && opposed.shape != Self::Nothing
                && property.shape.excludes_as(&opposed.shape, Depth::Inside, definitions)?
            {
                let mut records = records.clone();
                let same = records.properties.iter_mut().filter(|own| own.name == property.name);
                same.for_each(|own| own.required = true);
                return Ok(Self::typed(Typed { records: Some(records), ..Typed::clone(own) }));
            }
        }
        let required = opposed
            .properties
            .iter()
            .find(|property| property.required && !records.property(&property.name).is_some_and(|own| own.required));
        let Some(required) = required else { return Ok(self.clone()) };
        let mut records = records.clone();
        records.properties.retain(|property| property.name != required.name);
        records.properties.push(Property {
            name: required.name.clone(),
            shape: Self::Nothing,
            required: false,
            declared: false,
        });
        Ok(Self::typed(Typed { records: Some(records), ..Typed::clone(own) }))
    }

    /// As it is written: of the type that is meant, with the objects closed that would be closed anyway, so that nothing
    /// that is put together with it later opens them.
    ///
    /// # Errors
    /// As [`excludes`](Self::excludes).
    pub fn closed(&self, definitions: &mut Definitions) -> Result<Self, Unenforceable> {
        Ok(match definitions.look_through(self)? {
            Self::Typed(typed) => {
                let mut typed = typed.as_meant();
                let nothing = Undeclared { patterns: Vec::new(), others: Some(Self::Nothing) };
                let closed = typed.records.iter_mut().filter(|records| records.is_closed());
                closed.for_each(|records| records.undeclared.push(nothing.clone()));
                Self::typed(typed)
            }
            Self::Union(shapes) => {
                let shapes: Result<Vec<_>, _> =
                    shapes.iter().map(|shape| definitions.nested(|definitions| shape.closed(definitions))).collect();
                Self::union(shapes?)
            }
            shape => shape,
        })
    }
}

/// Where shapes are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// The alternatives themselves: they are closed for good.
    Top,
    /// A part of them.
    Inside,
}

fn all<'a>(
    mut shapes: impl Iterator<Item = &'a Shape>,
    mut test: impl FnMut(&'a Shape) -> Result<bool, Unenforceable>,
) -> Result<bool, Unenforceable> {
    shapes.try_fold(true, |all, shape| Ok(all && test(shape)?))
}

impl Typed {
    fn accepts(&self, value: &Value, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        Ok(match value {
            Value::Null => self.null,
            Value::Bool(_) => self.booleans,
            Value::Number(number) => {
                let accept = |numbers: &Numbers| Decimal::new(number).is_some_and(|number| numbers.accept(&number));
                self.numbers.as_ref().is_some_and(accept)
            }
            Value::String(text) => self.texts.as_ref().is_some_and(|texts| texts.accept(text)),
            Value::Array(items) => match &self.lists {
                Some(lists) => lists.accept(items, definitions)?,
                None => false,
            },
            Value::Object(map) => match &self.records {
                Some(records) => records.accept(map, definitions)?,
                None => false,
            },
        })
    }

    fn excludes(&self, other: &Self, depth: Depth, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        let shares_constants = (self.null && other.null) || (self.booleans && other.booleans);
        let apart = !shares_constants
            && (self.numbers.as_ref().zip(other.numbers.as_ref())).is_none_or(|(a, b)| a.excludes(b))
            && (self.texts.as_ref().zip(other.texts.as_ref())).is_none_or(|(a, b)| a.excludes(b));
        if !apart {
            return Ok(false);
        }
        if let (Some(a), Some(b)) = (&self.lists, &other.lists)
            && !a.excludes(b, definitions)?
        {
            return Ok(false);
        }
        match (&self.records, &other.records) {
            (Some(a), Some(b)) => a.excludes(b, depth, definitions),
            _ => Ok(true),
        }
    }
}

impl Numbers {
    /// Whether a number is among them.
    pub fn accept(&self, number: &Decimal) -> bool {
        let inside = |bound: &super::shape::Bound, low: bool| match number.cmp(&bound.value) {
            std::cmp::Ordering::Equal => !bound.exclusive,
            std::cmp::Ordering::Greater => low,
            std::cmp::Ordering::Less => !low,
        };
        (!self.whole || number.is_whole())
            && self.low.as_ref().is_none_or(|bound| inside(bound, true))
            && self.high.as_ref().is_none_or(|bound| inside(bound, false))
            && self.multiples_of.iter().all(|divisor| is_multiple(number, divisor))
    }

    fn excludes(&self, other: &Self) -> bool {
        self.and(other).is_none()
    }
}

/// Whether a number is a multiple of another one; no where that takes more digits than a machine's numbers hold.
fn is_multiple(number: &Decimal, divisor: &Decimal) -> bool {
    let power = number.num_digits().1.max(divisor.num_digits().1);
    match (number.scaled(power), divisor.scaled(power)) {
        (Some(number), Some(divisor)) => divisor != 0 && number.is_multiple_of(divisor),
        _ => false,
    }
}

impl Texts {
    /// As [`accept`](Self::accept), whatever the format: it is wider than what is written of it.
    fn surely_accept(&self, text: &str) -> bool {
        let patterns = self.patterns.iter().filter(|pattern| !pattern.is_format).cloned().collect();
        Self { patterns, ..self.clone() }.accept(text)
    }

    fn excludes(&self, other: &Self) -> bool {
        let apart = |a: &Self, b: &Self| a.max.is_some_and(|max| max < b.min);
        let told = self.patterns.iter().find_map(|pattern| pattern.texts.as_ref());
        apart(self, other)
            || apart(other, self)
            || told.is_some_and(|texts| texts.iter().all(|text| !self.accept(text) || !other.surely_accept(text)))
    }
}

impl Lists {
    fn accept(&self, items: &[Value], definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        if items.len() < self.min || self.max.is_some_and(|max| items.len() > max) {
            return Ok(false);
        }
        if self.unique.is_some()
            && items.iter().enumerate().any(|(index, a)| items[..index].iter().any(|b| same_value(a, b)))
        {
            return Ok(false);
        }
        for (index, item) in items.iter().enumerate() {
            if !self.item(index).accepts(item, definitions)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn excludes(&self, other: &Self, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        let apart = |a: &Self, b: &Self| a.max.is_some_and(|max| max < b.min);
        if apart(self, other) || apart(other, self) {
            return Ok(true);
        }
        // An item that must be there tells them apart.
        let certain = self.min.max(other.min).min(self.first.len().max(other.first.len()) + 1);
        for index in 0..certain {
            if self.item(index).excludes_as(other.item(index), Depth::Inside, definitions)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Records {
    fn accept(
        &self,
        map: &serde_json::Map<String, Value>,
        definitions: &mut Definitions,
    ) -> Result<bool, Unenforceable> {
        if map.len() < self.min || self.max.is_some_and(|max| map.len() > max) {
            return Ok(false);
        }
        if self.properties.iter().any(|property| property.required && !map.contains_key(&property.name)) {
            return Ok(false);
        }
        for (name, value) in map {
            let shape = match self.property(name) {
                Some(property) => property.shape.clone(),
                None => self.undeclared_shape(name, definitions)?,
            };
            if !shape.accepts(value, definitions)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn excludes(&self, other: &Self, depth: Depth, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        for property in self.properties.iter().chain(&other.properties) {
            let name = &property.name;
            let (own, opposed) = (self.property(name), other.property(name));
            let is_wanted = opposed.is_some_and(|property| property.required);
            if !is_wanted && !own.is_some_and(|property| property.required) {
                continue;
            }
            let own = match own {
                Some(property) => property.shape.clone(),
                None if depth == Depth::Top && self.is_closed() => Shape::Nothing,
                None => self.undeclared_shape(name, definitions)?,
            };
            let opposed = match opposed {
                Some(property) => property.shape.clone(),
                None => other.undeclared_shape(name, definitions)?,
            };
            if own.excludes_as(&opposed, Depth::Inside, definitions)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
