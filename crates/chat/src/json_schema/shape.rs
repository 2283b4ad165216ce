//! What a schema allows, type by type, and what two schemas allow together.

use std::rc::Rc;

use serde_json::Value;

use super::Unenforceable;
use super::decimal::Decimal;
use super::references::Definitions;
use super::text::Pattern;

/// Most alternatives of one value.
const MAX_ALTERNATIVES: usize = 2_000;

/// The values that a schema allows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// All.
    Any,
    /// None.
    Nothing,
    /// Those of a definition, by its number.
    Reference(usize),
    /// Those of one type or of several.
    Typed(Rc<Typed>),
    /// This one. No list or object.
    Literal(Value),
    /// Those of any of these.
    Union(Rc<[Shape]>),
}

/// Values of each type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Typed {
    pub null: bool,
    pub booleans: bool,
    pub numbers: Option<Numbers>,
    pub texts: Option<Texts>,
    pub lists: Option<Lists>,
    pub records: Option<Records>,
    /// The type that a schema without `type` is about: nobody means the others.
    pub meant: Option<Kind>,
}

/// A type of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Numbers,
    Texts,
    Lists,
    Records,
}

/// A bound of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub value: Decimal,
    pub exclusive: bool,
}

/// Numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Numbers {
    pub whole: bool,
    pub low: Option<Bound>,
    pub high: Option<Bound>,
    pub multiples_of: Vec<Decimal>,
}

/// Strings.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Texts {
    pub min: usize,
    pub max: Option<usize>,
    pub patterns: Vec<Rc<Pattern>>,
}

/// Arrays.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lists {
    pub first: Vec<Shape>,
    pub others: Shape,
    pub min: usize,
    pub max: Option<usize>,
    /// Where `uniqueItems` stands, if it does.
    pub unique: Option<String>,
}

/// A declared or required property.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Property {
    pub name: String,
    pub shape: Shape,
    pub required: bool,
    /// It is more than required: a schema says what it is.
    pub declared: bool,
}

/// What one schema says of the properties that it does not declare.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Undeclared {
    pub patterns: Vec<(Rc<Pattern>, Shape)>,
    /// `None`: nothing was said.
    pub others: Option<Shape>,
}

/// Objects.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Records {
    pub properties: Vec<Property>,
    /// What each of the schemas that were put together says.
    pub undeclared: Vec<Undeclared>,
    /// Property names.
    pub names: Option<Texts>,
    pub min: usize,
    pub max: Option<usize>,
    /// Where the schema stands.
    pub path: Option<String>,
}

impl Typed {
    /// All values.
    pub fn any() -> Self {
        Self {
            null: true,
            booleans: true,
            numbers: Some(Numbers::default()),
            texts: Some(Texts::default()),
            lists: Some(Lists::default()),
            records: Some(Records::default()),
            meant: None,
        }
    }

    /// No value.
    pub fn none() -> Self {
        Self { null: false, booleans: false, numbers: None, texts: None, lists: None, records: None, meant: None }
    }

    fn is_empty(&self) -> bool {
        let Self { null, booleans, numbers, texts, lists, records, .. } = self;
        !null && !booleans && numbers.is_none() && texts.is_none() && lists.is_none() && records.is_none()
    }

    /// Without the types that nobody means.
    pub fn as_meant(&self) -> Self {
        let keep = |kind: Kind| self.meant == Some(kind);
        let narrow = Self {
            numbers: self.numbers.clone().filter(|_| keep(Kind::Numbers)),
            texts: self.texts.clone().filter(|_| keep(Kind::Texts)),
            lists: self.lists.clone().filter(|_| keep(Kind::Lists)),
            records: self.records.clone().filter(|_| keep(Kind::Records)),
            ..Self::none()
        };
        if narrow.is_empty() { self.clone() } else { narrow }
    }
}

impl Default for Lists {
    fn default() -> Self {
        Self { first: Vec::new(), others: Shape::Any, min: 0, max: None, unique: None }
    }
}

impl Lists {
    /// What the item at an index may be.
    pub fn item(&self, index: usize) -> &Shape {
        self.first.get(index).unwrap_or(&self.others)
    }
}

impl Records {
    /// A declared or required property.
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.properties.iter().find(|property| property.name == name)
    }

    /// Whether properties that are not declared may stand here: when nothing was said, those of an object that declares
    /// any may not. Closing it is narrower than the schema, and hardly anybody means otherwise.
    pub fn is_closed(&self) -> bool {
        let silent = self.undeclared.iter().all(|said| said.patterns.is_empty() && said.others.is_none());
        let denied = self.undeclared.iter().any(|said| said.patterns.is_empty() && said.others == Some(Shape::Nothing));
        let declared = self.properties.iter().filter(|property| property.declared).count();
        let all_declared = self.properties.iter().all(|property| property.declared || !property.required);
        denied || (silent && declared > 0 && all_declared && self.min <= declared)
    }
}

impl Undeclared {
    /// What a property of this name may be.
    fn parts(&self, name: &str) -> Vec<Shape> {
        let fitting: Vec<Shape> =
            self.patterns.iter().filter(|(pattern, _)| pattern.fits(name)).map(|(_, shape)| shape.clone()).collect();
        if fitting.is_empty() { self.others.iter().cloned().collect() } else { fitting }
    }
}

impl Shape {
    /// Any of several.
    pub fn union(shapes: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Vec::new();
        for shape in shapes {
            match shape {
                Self::Any => return Self::Any,
                Self::Nothing => {}
                Self::Union(shapes) => all.extend(shapes.iter().cloned()),
                shape => all.push(shape),
            }
        }
        match all.len() {
            0 => Self::Nothing,
            1 => all.swap_remove(0),
            _ => Self::Union(all.into()),
        }
    }

    /// All objects.
    pub fn any_object() -> Self {
        Self::typed(Typed { records: Some(Records::default()), ..Typed::none() })
    }

    /// Values of these types, none of which is empty.
    pub fn typed(typed: Typed) -> Self {
        if typed.is_empty() { Self::Nothing } else { Self::Typed(Rc::new(typed)) }
    }

    /// A value. Lists and objects become shapes of their own, since their parts are written one by one.
    pub fn value(value: &Value) -> Self {
        match value {
            Value::Array(items) => Self::typed(Typed {
                lists: Some(Lists {
                    first: items.iter().map(Self::value).collect(),
                    others: Self::Nothing,
                    min: items.len(),
                    max: Some(items.len()),
                    unique: None,
                }),
                ..Typed::none()
            }),
            Value::Object(map) => Self::typed(Typed {
                records: Some(Records {
                    properties: map
                        .iter()
                        .map(|(name, value)| Property {
                            name: name.clone(),
                            shape: Self::value(value),
                            required: true,
                            declared: true,
                        })
                        .collect(),
                    undeclared: vec![Undeclared { patterns: Vec::new(), others: Some(Self::Nothing) }],
                    ..Records::default()
                }),
                ..Typed::none()
            }),
            literal => Self::Literal(literal.clone()),
        }
    }

    /// What both allow.
    ///
    /// # Errors
    /// When that takes more work than a schema may cause.
    pub fn and(&self, other: &Self, definitions: &mut Definitions) -> Result<Self, Unenforceable> {
        definitions.spend()?;
        Ok(match (self, other) {
            (Self::Any, shape) | (shape, Self::Any) => shape.clone(),
            (Self::Nothing, _) | (_, Self::Nothing) => Self::Nothing,
            (Self::Reference(a), Self::Reference(b)) if a == b => self.clone(),
            (Self::Reference(number), other) | (other, Self::Reference(number)) => {
                let shape = definitions.resolve(*number)?;
                definitions.nested(|definitions| shape.and(other, definitions))?
            }
            (Self::Union(shapes), other) | (other, Self::Union(shapes)) => {
                if shapes.len() > MAX_ALTERNATIVES {
                    return Err(Unenforceable::too_large());
                }
                let parts: Result<Vec<_>, _> = shapes.iter().map(|shape| shape.and(other, definitions)).collect();
                Self::union(parts?)
            }
            (Self::Literal(a), Self::Literal(b)) => {
                if super::accepts::same_value(a, b) {
                    self.clone()
                } else {
                    Self::Nothing
                }
            }
            (Self::Literal(value), shape) | (shape, Self::Literal(value)) => {
                if shape.accepts(value, definitions)? {
                    Self::Literal(value.clone())
                } else {
                    Self::Nothing
                }
            }
            (Self::Typed(a), Self::Typed(b)) => Self::typed(a.and(b, definitions)?),
        })
    }
}

impl Typed {
    fn and(&self, other: &Self, definitions: &mut Definitions) -> Result<Self, Unenforceable> {
        let lists = match (&self.lists, &other.lists) {
            (Some(a), Some(b)) => a.and(b, definitions)?,
            _ => None,
        };
        let records = match (&self.records, &other.records) {
            (Some(a), Some(b)) => a.and(b, definitions)?,
            _ => None,
        };
        Ok(Self {
            null: self.null && other.null,
            booleans: self.booleans && other.booleans,
            numbers: self.numbers.as_ref().zip(other.numbers.as_ref()).and_then(|(a, b)| a.and(b)),
            texts: self.texts.as_ref().zip(other.texts.as_ref()).and_then(|(a, b)| a.and(b)),
            lists,
            records,
            // A type that is said means what it says.
            meant: self.meant.filter(|_| self.meant == other.meant),
        })
    }
}

impl Numbers {
    /// What both allow; `None` for nothing.
    pub fn and(&self, other: &Self) -> Option<Self> {
        let tighter = |a: &Option<Bound>, b: &Option<Bound>, low: bool| match (a, b) {
            (Some(a), Some(b)) => {
                let a_wins = if a.value == b.value { a.exclusive } else { (a.value > b.value) == low };
                Some(if a_wins { a.clone() } else { b.clone() })
            }
            (bound, None) | (None, bound) => bound.clone(),
        };
        let mut multiples_of = self.multiples_of.clone();
        multiples_of.extend(other.multiples_of.iter().filter(|number| !self.multiples_of.contains(number)).cloned());
        Self {
            whole: self.whole || other.whole,
            low: tighter(&self.low, &other.low, true),
            high: tighter(&self.high, &other.high, false),
            multiples_of,
        }
        .normal()
    }

    /// With bounds of whole numbers where the numbers are whole; `None` when nothing is between the bounds.
    pub fn normal(mut self) -> Option<Self> {
        if self.whole {
            for (bound, up) in [(&mut self.low, true), (&mut self.high, false)] {
                if let Some(bound) = bound {
                    let exact = bound.value.is_whole();
                    bound.value = bound.value.rounded(up);
                    if bound.exclusive && exact {
                        bound.value = bound.value.step(up);
                    }
                    bound.exclusive = false;
                }
            }
        }
        let is_empty = self.low.as_ref().zip(self.high.as_ref()).is_some_and(|(low, high)| {
            low.value > high.value || (low.value == high.value && (low.exclusive || high.exclusive))
        });
        (!is_empty).then_some(self)
    }
}

impl Texts {
    /// What both allow; `None` for nothing.
    pub fn and(&self, other: &Self) -> Option<Self> {
        let mut patterns = self.patterns.clone();
        patterns.extend(other.patterns.iter().filter(|pattern| !self.patterns.contains(pattern)).cloned());
        let min = self.min.max(other.min);
        let max = least(self.max, other.max);
        max.is_none_or(|max| min <= max).then_some(Self { min, max, patterns })
    }

    /// No text.
    pub fn none() -> Self {
        Self { patterns: vec![Rc::new(Pattern::of_texts(Vec::new()))], ..Self::default() }
    }

    /// Whether a text is among them.
    pub fn accept(&self, text: &str) -> bool {
        let length = text.chars().count();
        length >= self.min
            && self.max.is_none_or(|max| length <= max)
            && self.patterns.iter().all(|pattern| pattern.fits(text))
    }
}

impl Lists {
    fn and(&self, other: &Self, definitions: &mut Definitions) -> Result<Option<Self>, Unenforceable> {
        let length = self.first.len().max(other.first.len());
        let first: Result<Vec<_>, _> =
            (0..length).map(|index| self.item(index).and(other.item(index), definitions)).collect();
        let (min, max) = (self.min.max(other.min), least(self.max, other.max));
        if max.is_some_and(|max| min > max) {
            return Ok(None);
        }
        let others = self.others.and(&other.others, definitions)?;
        Ok(Some(Self { first: first?, others, min, max, unique: self.unique.clone().or(other.unique.clone()) }))
    }
}

impl Records {
    /// What an undeclared property of this name may be.
    pub fn undeclared_shape(&self, name: &str, definitions: &mut Definitions) -> Result<Shape, Unenforceable> {
        if self.names.as_ref().is_some_and(|names| !names.accept(name)) {
            return Ok(Shape::Nothing);
        }
        let parts = self.undeclared.iter().flat_map(|said| said.parts(name));
        parts.into_iter().try_fold(Shape::Any, |all, part| all.and(&part, definitions))
    }

    fn and(&self, other: &Self, definitions: &mut Definitions) -> Result<Option<Self>, Unenforceable> {
        let mut properties = Vec::new();
        for (side, opposite, first) in [(self, other, true), (other, self, false)] {
            for property in &side.properties {
                let opposed = opposite.property(&property.name);
                if !first && opposed.is_some() {
                    continue;
                }
                let shape = match opposed {
                    Some(opposed) => opposed.shape.clone(),
                    None => opposite.undeclared_shape(&property.name, definitions)?,
                };
                properties.push(Property {
                    name: property.name.clone(),
                    shape: property.shape.and(&shape, definitions)?,
                    required: property.required || opposed.is_some_and(|opposed| opposed.required),
                    declared: property.declared || opposed.is_some_and(|opposed| opposed.declared),
                });
            }
        }
        let names = match (&self.names, &other.names) {
            (Some(a), Some(b)) => Some(a.and(b).unwrap_or_else(Texts::none)),
            (names, None) | (None, names) => names.clone(),
        };
        let mut undeclared = self.undeclared.clone();
        undeclared.extend(other.undeclared.iter().filter(|said| !self.undeclared.contains(said)).cloned());
        let merged = Self {
            properties,
            undeclared,
            names,
            min: self.min.max(other.min),
            max: least(self.max, other.max),
            path: self.path.clone().or(other.path.clone()),
        };
        Ok(merged.normal())
    }

    /// `None` when no object is left.
    pub fn normal(self) -> Option<Self> {
        if self.properties.iter().any(|property| property.required && property.shape == Shape::Nothing) {
            return None;
        }
        let required = self.properties.iter().filter(|property| property.required).count();
        self.max.is_none_or(|max| required.max(self.min) <= max).then_some(self)
    }
}

/// The lower of two bounds, where there are any.
pub(super) fn least(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (bound, None) | (None, bound) => bound,
    }
}
