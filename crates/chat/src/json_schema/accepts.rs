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

    /// Whether no answer that is written after this shape is valid by the other.
    ///
    /// # Errors
    /// When that takes more work than a schema may cause.
    pub fn excludes(&self, other: &Self, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        definitions.spend()?;
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) => Ok(true),
            (Self::Reference(number), other) => {
                let shape = definitions.resolve(*number)?;
                definitions.nested(|definitions| shape.excludes(other, definitions))
            }
            (shape, Self::Reference(number)) => {
                let other = definitions.resolve(*number)?;
                definitions.nested(|definitions| shape.excludes(&other, definitions))
            }
            (Self::Union(shapes), other) => all(shapes.iter(), |shape| shape.excludes(other, definitions)),
            (shape, Self::Union(others)) => all(others.iter(), |other| shape.excludes(other, definitions)),
            (Self::Any, _) | (_, Self::Any) => Ok(false),
            (Self::Literal(value), other) => Ok(!other.accepts(value, definitions)?),
            (shape, Self::Literal(value)) => Ok(!shape.accepts(value, definitions)?),
            (Self::Typed(a), Self::Typed(b)) => a.as_meant().excludes(b, definitions),
        }
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

    /// With the objects closed that would be closed anyway, so that nothing opens them later.
    ///
    /// # Errors
    /// As [`excludes`](Self::excludes).
    pub fn closed(&self, definitions: &mut Definitions) -> Result<Self, Unenforceable> {
        let shape = definitions.look_through(self)?;
        Ok(match &shape {
            Self::Typed(typed) if typed.records.as_ref().is_some_and(Records::is_closed) => {
                let mut typed = Typed::clone(typed);
                let nothing = Undeclared { patterns: Vec::new(), others: Some(Self::Nothing) };
                typed.records.iter_mut().for_each(|records| records.undeclared.push(nothing.clone()));
                Self::typed(typed)
            }
            Self::Typed(_) => shape,
            _ => self.clone(),
        })
    }
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

    fn excludes(&self, other: &Self, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
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
            (Some(a), Some(b)) => a.excludes(b, definitions),
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
    fn excludes(&self, other: &Self) -> bool {
        let apart = |a: &Self, b: &Self| a.max.is_some_and(|max| max < b.min);
        let told = self.patterns.iter().find_map(|pattern| pattern.texts.as_ref());
        apart(self, other)
            || apart(other, self)
            || told.is_some_and(|texts| texts.iter().all(|text| !self.accept(text) || !other.accept(text)))
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
            if self.item(index).excludes(other.item(index), definitions)? {
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

    fn excludes(&self, other: &Self, definitions: &mut Definitions) -> Result<bool, Unenforceable> {
        for property in self.properties.iter().chain(&other.properties) {
            let name = &property.name;
            let (own, opposed) = (self.property(name), other.property(name));
            let is_wanted = opposed.is_some_and(|property| property.required);
            if !is_wanted && !own.is_some_and(|property| property.required) {
                continue;
            }
            let own = match own {
                Some(property) => property.shape.clone(),
                None if self.is_closed() => Shape::Nothing,
                None => self.undeclared_shape(name, definitions)?,
            };
            let opposed = match opposed {
                Some(property) => property.shape.clone(),
                None => other.undeclared_shape(name, definitions)?,
            };
            if own.excludes(&opposed, definitions)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
