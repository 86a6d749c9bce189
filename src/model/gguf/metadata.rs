//! The key-value part of a GGUF file, with typed access.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{Array, GgufError, Value};

/// Keys and values in file order; keys are unique.
///
/// The typed getters return `Ok(None)` for an absent key and an error for a value of another type.
/// Integers convert between widths as long as the number fits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).and_then(|&i| self.entries.get(i)).map(|(_, value)| value)
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets `key`, replacing an earlier value in place.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.index.entry(key) {
            Entry::Occupied(entry) => {
                if let Some(slot) = self.entries.get_mut(*entry.get()) {
                    slot.1 = value;
                }
            }
            Entry::Vacant(entry) => {
                self.entries.push((entry.key().clone(), value));
                entry.insert(self.entries.len() - 1);
            }
        }
    }

    /// Adds a key of a file, which must be new.
    pub(super) fn add(&mut self, key: String, value: Value) -> Result<(), GgufError> {
        if self.index.contains_key(&key) {
            return Err(GgufError::Duplicate { what: "metadata key", name: key });
        }
        self.set(key, value);
        Ok(())
    }

    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.integer(key, "a number that fits u32")
    }

    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.integer(key, "a number that fits u64")
    }

    pub fn i64(&self, key: &str) -> Result<Option<i64>, GgufError> {
        self.integer(key, "a number that fits i64")
    }

    /// An f32, or an f64 rounded to one.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(v)) => Ok(Some(*v)),
            Some(Value::F64(v)) => Ok(Some(*v as f32)),
            Some(other) => Err(wrong_type(key, "a float", other)),
        }
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(wrong_type(key, "a bool", other)),
        }
    }

    /// A string that must be UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(bytes)) => {
                let text = std::str::from_utf8(bytes);
                text.map(Some).map_err(|e| GgufError::malformed(key, format!("not UTF-8: {e}")))
            }
            Some(other) => Err(wrong_type(key, "a string", other)),
        }
    }

    /// An array of raw strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[Box<[u8]>]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(v))) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, "an array of strings", other)),
        }
    }

    /// An array of integers of any width whose values fit i32.
    pub fn i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, GgufError> {
        match self.get(key) {
            Some(Value::Array(Array::I32(v))) => Ok(Some(Cow::Borrowed(v))),
            _ => Ok(self.integers(key, Scalar::Refused)?.map(Cow::Owned)),
        }
    }

    /// An array of integers of any width whose values fit u32; a scalar counts as one element.
    ///
    /// Files give per-layer values, such as head counts, as one number or as an array.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.integers(key, Scalar::Allowed)
    }

    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(v))) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, "an array of f32", other)),
        }
    }

    pub fn bools(&self, key: &str) -> Result<Option<&[bool]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Bool(v))) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, "an array of bools", other)),
        }
    }

    /// `general.architecture`, which every model file has.
    pub fn architecture(&self) -> Result<&str, GgufError> {
        const KEY: &str = "general.architecture";
        self.str(KEY)?.ok_or_else(|| GgufError::Missing { key: KEY.into() })
    }

    fn integer<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_integer().ok_or_else(|| wrong_type(key, expected, value))?;
        T::try_from(number).map(Some).map_err(|_| GgufError::WrongType {
            key: key.into(),
            expected,
            found: number.to_string(),
        })
    }

    fn integers<T: TryFrom<i128>>(
        &self,
        key: &str,
        scalar: Scalar,
    ) -> Result<Option<Vec<T>>, GgufError> {
        const EXPECTED: &str = "an array of integers in range";
        let numbers = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(array)) => array.integers(),
            Some(value) if scalar == Scalar::Allowed => value.as_integer().map(|v| vec![v]),
            Some(_) => None,
        };
        let numbers = numbers
            .and_then(|n| n.into_iter().map(|v| T::try_from(v).ok()).collect::<Option<Vec<T>>>());
        match (numbers, self.get(key)) {
            (None, Some(value)) => Err(wrong_type(key, EXPECTED, value)),
            (numbers, _) => Ok(numbers),
        }
    }
}

/// Whether a lone number may stand for an array of one.
#[derive(Clone, Copy, PartialEq)]
enum Scalar {
    Allowed,
    Refused,
}

fn wrong_type(key: &str, expected: &'static str, found: &Value) -> GgufError {
    GgufError::WrongType { key: key.into(), expected, found: found.type_name() }
}
