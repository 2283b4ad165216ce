//! Typed, bounded access to the fields of config.json.

use serde_json::{Map, Value};

use crate::ModelError;

/// No dimension of a served model comes near this; a larger one would overflow products later.
const MAX_DIMENSION: u64 = 1 << 24;

/// The object of a config file. `null` counts as absent.
pub(crate) struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub fn of(value: &'a Value, what: &str) -> Result<Self, ModelError> {
        value.as_object().map(Self).ok_or_else(|| ModelError::config(format!("{what} is not an object")))
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn required<T>(key: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| ModelError::config(format!("`{key}` is missing")))
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(ModelError::config(format!("`{key}` is {value}, expected {expected}"))),
        }
    }

    /// A count from 1 to 2^24.
    pub fn optional_dimension(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a whole number from 1 to 2^24", |value| {
            value.as_u64().filter(|number| (1..=MAX_DIMENSION).contains(number)).map(|number| number as usize)
        })
    }

    pub fn dimension(&self, key: &str) -> Result<usize, ModelError> {
        Self::required(key, self.optional_dimension(key)?)
    }

    /// A count from 0 to 2^24.
    pub fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a whole number from 0 to 2^24", |value| {
            value.as_u64().filter(|number| *number <= MAX_DIMENSION).map(|number| number as usize)
        })
    }

    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a finite number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    pub fn number(&self, key: &str) -> Result<f64, ModelError> {
        Self::required(key, self.optional_number(key)?)
    }

    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn optional_text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ModelError> {
        Ok(self.typed(key, "an object", Value::as_object)?.map(Fields))
    }
}
