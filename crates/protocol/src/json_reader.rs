//! A deserializer around another one that knows where it is, takes whole numbers however they are written (`10`,
//! `10.0`, `1e1`), and whose errors are for people. Never stores what its caller does not.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use crate::json_error::{JsonError, float_in_words, one_of};

/// Way from the root to a value. Only errors look at it.
#[derive(Clone, Copy)]
pub enum Path<'p> {
    /// The whole.
    Root,
    /// A place in a list.
    Index(&'p Path<'p>, usize),
    /// A value in an object.
    Key(&'p Path<'p>, &'p str),
}

impl Path<'_> {
    /// Such as `messages[0].content`, empty for the whole.
    pub fn text(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Index(parent, index) => format!("{}[{index}]", parent.text()),
            Self::Key(Path::Root, key) => (*key).to_owned(),
            Self::Key(parent, key) => format!("{}.{key}", parent.text()),
        }
    }
}

/// Where an error waits while the inner deserializer hands its own up, which would forget all but the text.
#[derive(Default)]
pub struct Slot(RefCell<Option<JsonError>>);

impl Slot {
    fn put<E: Error>(&self, error: JsonError) -> E {
        *self.0.borrow_mut() = Some(error);
        E::custom("")
    }
}

/// The deserializer.
pub struct Reader<'p, D> {
    inner: D,
    path: Path<'p>,
    slot: &'p Slot,
}

impl<'p, D> Reader<'p, D> {
    /// Around another, at a place.
    pub fn new(inner: D, path: Path<'p>, slot: &'p Slot) -> Self {
        Self { inner, path, slot }
    }
}

impl<'de, D: Deserializer<'de>> Reader<'_, D> {
    /// Whatever stands there goes to the visitor.
    fn visit<V: Visitor<'de>>(self, visitor: V, takes_list: bool) -> Result<V::Value, JsonError> {
        let Self { inner, path, slot } = self;
        inner
            .deserialize_any(Wrap { visitor, path, slot, takes_list })
            .map_err(|error| explain(&error, slot).at(|| path.text()))
    }

    fn whole(self, low: i128, high: i128) -> Result<i128, JsonError> {
        self.visit(WholeNumber { low, high }, true)
    }
}

/// The error that was put aside, or what the inner deserializer says itself.
fn explain<E: Error>(error: &E, slot: &Slot) -> JsonError {
    // Nothing is put aside only where the parser cannot go on: its own words are all there is.
    slot.0.borrow_mut().take().unwrap_or_else(|| JsonError::parser(&error.to_string()))
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ident $wide:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            let path = self.path;
            let number = self.whole($type::MIN.into(), $type::MAX.into())?;
            visitor.$visit(number as $wide).map_err(|error: JsonError| error.at(|| path.text()))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Reader<'_, D> {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.visit(visitor, true)
    }

    whole_numbers!(
        deserialize_u8 visit_u64 u8 u64,
        deserialize_u16 visit_u64 u16 u64,
        deserialize_u32 visit_u64 u32 u64,
        deserialize_u64 visit_u64 u64 u64,
        deserialize_i8 visit_i64 i8 i64,
        deserialize_i16 visit_i64 i16 i64,
        deserialize_i32 visit_i64 i32 i64,
        deserialize_i64 visit_i64 i64 i64
    );

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.visit(Float32(visitor), true)
    }

    /// Lists are no objects, although structs can be read from them.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.visit(visitor, false)
    }

    /// Of names only.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        let path = self.path;
        let name = self.visit(Name { variants }, true)?;
        visitor.visit_enum(name.into_deserializer()).map_err(|error: JsonError| error.at(|| path.text()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        let Self { inner, path, slot } = self;
        inner
            .deserialize_option(Wrap { visitor, path, slot, takes_list: true })
            .map_err(|error| explain(&error, slot).at(|| path.text()))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        let Self { inner, path, slot } = self;
        inner
            .deserialize_ignored_any(Wrap { visitor, path, slot, takes_list: true })
            .map_err(|error| explain(&error, slot).at(|| path.text()))
    }

    forward_to_deserialize_any! {
        bool i128 u128 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

/// Hands what is found on to the visitor, with readers inside lists and objects.
struct Wrap<'p, V> {
    visitor: V,
    path: Path<'p>,
    slot: &'p Slot,
    takes_list: bool,
}

macro_rules! hand_on {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value).map_err(|error| self.slot.put(error))
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Wrap<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.visitor.expecting(f)
    }

    hand_on! {
        visit_bool(bool)
        visit_i64(i64)
        visit_u64(u64)
        visit_f64(f64)
        visit_str(&str)
        visit_borrowed_str(&'de str)
        visit_string(String)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit().map_err(|error| self.slot.put(error))
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none().map_err(|error| self.slot.put(error))
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let reader = Reader { inner, path: self.path, slot: self.slot };
        self.visitor.visit_some(reader).map_err(|error| self.slot.put(error))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, path, slot, takes_list } = self;
        if !takes_list {
            return Err(slot.put(JsonError::invalid_type(Unexpected::Seq, &"an object")));
        }
        let items = Items { inner, path: &path, slot, index: 0 };
        visitor.visit_seq(items).map_err(|error| slot.put(error.at(|| path.text())))
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, path, slot, .. } = self;
        let fields = Fields { inner, path: &path, slot, key: String::new() };
        visitor.visit_map(fields).map_err(|error| slot.put(error.at(|| path.text())))
    }
}

/// A value inside a list or an object.
struct Inside<'p, S> {
    seed: S,
    path: Path<'p>,
    slot: &'p Slot,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Inside<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let Self { seed, path, slot } = self;
        seed.deserialize(Reader { inner, path, slot }).map_err(|error| slot.put(error.at(|| path.text())))
    }
}

struct Items<'p, A> {
    inner: A,
    path: &'p Path<'p>,
    slot: &'p Slot,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = JsonError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, JsonError> {
        let path = Path::Index(self.path, self.index);
        self.index += 1;
        let found = self.inner.next_element_seed(Inside { seed, path, slot: self.slot });
        found.map_err(|error| explain(&error, self.slot))
    }
}

struct Fields<'p, A> {
    inner: A,
    path: &'p Path<'p>,
    slot: &'p Slot,
    key: String,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = JsonError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, JsonError> {
        self.key.clear();
        let seed = NamedBy { seed, key: &mut self.key, slot: self.slot };
        self.inner.next_key_seed(seed).map_err(|error| explain(&error, self.slot))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, JsonError> {
        let path = Path::Key(self.path, &self.key);
        let found = self.inner.next_value_seed(Inside { seed, path, slot: self.slot });
        found.map_err(|error| explain(&error, self.slot))
    }
}

struct NamedBy<'p, S> {
    seed: S,
    key: &'p mut String,
    slot: &'p Slot,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for NamedBy<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        inner.deserialize_any(KeyText(self.key))?;
        let key: StrDeserializer<JsonError> = self.key.as_str().into_deserializer();
        self.seed.deserialize(key).map_err(|error| self.slot.put(error))
    }
}

struct KeyText<'p>(&'p mut String);

impl Visitor<'_> for KeyText<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.0.push_str(key);
        Ok(())
    }
}

/// A whole number, however it is written.
struct WholeNumber {
    low: i128,
    high: i128,
}

impl WholeNumber {
    fn check<E: Error>(&self, number: i128) -> Result<i128, E> {
        if (self.low..=self.high).contains(&number) {
            return Ok(number);
        }
        let size = if number > self.high { "large" } else { "small" };
        Err(E::custom(format_args!("must be {}: {number} is too {size}", Words(self))))
    }
}

struct Words<'a>(&'a WholeNumber);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a whole number from {} to {}", self.0.low, self.0.high)
    }
}

impl Visitor<'_> for WholeNumber {
    type Value = i128;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", Words(self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<i128, E> {
        self.check(number.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<i128, E> {
        self.check(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<i128, E> {
        if number.fract() != 0.0 {
            return Err(E::invalid_type(Unexpected::Float(number), &self));
        }
        if number.abs() >= 1e20 {
            let (size, number) = (if number > 0.0 { "large" } else { "small" }, float_in_words(number));
            return Err(E::custom(format_args!("must be {}: {number} is too {size}", Words(&self))));
        }
        self.check(number as i128)
    }
}

/// A number that `f32` can hold.
struct Float32<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Float32<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<V::Value, E> {
        self.0.visit_u64(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<V::Value, E> {
        self.0.visit_i64(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<V::Value, E> {
        if number.abs() > f32::MAX.into() {
            return Err(E::custom(format_args!("is {}, a number that is too large", float_in_words(number))));
        }
        self.0.visit_f64(number)
    }
}

/// One of some names.
struct Name {
    variants: &'static [&'static str],
}

impl Visitor<'_> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&one_of(self.variants))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        Ok(name.to_owned())
    }
}
