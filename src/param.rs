//! Parameters as data: what each is called, what it may be, and what it sets, said once.
//!
//! What a request, or another group of settings, may say is a list of [`Param`]s. Its reader, its
//! bounds and its refusals come from the list, and so does what the documents say of it: a bound that
//! is written is a bound that is checked.

mod names;

use std::convert::Infallible;

use serde_json::{Map, Number, Value};

pub use names::{edit_distance, is_nearly};

use crate::error::{Error, Result};

/// One thing that may be said about a `T`. `W` tells what the JSON of composite values looks like.
pub struct Param<T: 'static, W: 'static = Infallible> {
    /// What is said. Parameters of one key are names of the same thing.
    pub key: &'static str,
    /// How it is called here.
    pub name: &'static str,
    /// What it does, for whoever sends it.
    pub doc: &'static str,
    /// What sets it apart from its namesakes in other servers.
    pub remark: &'static str,
    pub kind: Kind<T, W>,
    pub effect: Effect,
    /// Whether it must be said.
    pub is_required: bool,
    /// What holds where nothing is said; `None`: what the `T` has of itself.
    pub default: Option<Scalar>,
}

/// What values a parameter has, and where they go.
pub enum Kind<T: 'static, W: 'static = Infallible> {
    /// From `min` to `max`.
    Number {
        min: f64,
        max: f64,
        set: fn(&mut T, f64),
    },
    /// From `min` to `max`, and -1 where that takes a bound away.
    Integer {
        min: i64,
        max: i64,
        unbounded: bool,
        set: fn(&mut T, i64),
    },
    Switch {
        set: fn(&mut T, bool),
    },
    /// Of so many characters at most.
    Text {
        max_chars: usize,
        set: fn(&mut T, String),
    },
    /// A list of texts; one of them may come without its list.
    Texts {
        max: usize,
        chars: (usize, usize),
        or_one: bool,
        set: fn(&mut T, Vec<String>),
    },
    /// A list of token ids.
    Ids {
        max: usize,
        set: fn(&mut T, Vec<u32>),
    },
    /// One of a few words; `open`: other words are hints that nobody needs to heed.
    Choice {
        words: &'static [&'static str],
        open: bool,
        set: fn(&mut T, &'static str),
    },
    /// An object of parameters.
    Table {
        title: &'static str,
        params: &'static [Param<T, W>],
    },
    /// Anything else.
    Json {
        wire: W,
        set: fn(&mut T, Value, &Place) -> Result<()>,
    },
}

/// What becomes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It decides what the answer is: where it is not known, an answer without it would be a lie.
    Decides,
    /// It is about how an answer is given.
    Serves,
    /// None, and why.
    Nothing(&'static str),
    /// Only its neutral value is taken, and why.
    Refused(&'static str),
}

/// A default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Number(f64),
    Integer(i64),
}

impl<T, W: Copy> Clone for Param<T, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, W: Copy> Copy for Param<T, W> {}

impl<T, W: Copy> Clone for Kind<T, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, W: Copy> Copy for Kind<T, W> {}

impl<T, W: Copy> Param<T, W> {
    pub const fn new(name: &'static str, doc: &'static str, kind: Kind<T, W>) -> Self {
        let effect = Effect::Decides;
        Self { key: name, name, doc, remark: "", kind, effect, is_required: false, default: None }
    }

    pub const fn number(
        name: &'static str,
        doc: &'static str,
        (min, max): (f64, f64),
        set: fn(&mut T, f64),
    ) -> Self {
        Self::new(name, doc, Kind::Number { min, max, set })
    }

    pub const fn integer(
        name: &'static str,
        doc: &'static str,
        (min, max): (i64, i64),
        set: fn(&mut T, i64),
    ) -> Self {
        Self::new(name, doc, Kind::Integer { min, max, unbounded: false, set })
    }

    pub const fn switch(name: &'static str, doc: &'static str, set: fn(&mut T, bool)) -> Self {
        Self::new(name, doc, Kind::Switch { set })
    }

    pub const fn text(
        name: &'static str,
        doc: &'static str,
        max_chars: usize,
        set: fn(&mut T, String),
    ) -> Self {
        Self::new(name, doc, Kind::Text { max_chars, set })
    }

    pub const fn json(
        name: &'static str,
        doc: &'static str,
        wire: W,
        set: fn(&mut T, Value, &Place) -> Result<()>,
    ) -> Self {
        Self::new(name, doc, Kind::Json { wire, set })
    }

    /// The same thing under another name.
    #[must_use]
    pub const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Another name of this.
    #[must_use]
    pub const fn being(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    #[must_use]
    pub const fn saying(self, doc: &'static str) -> Self {
        Self { doc, ..self }
    }

    #[must_use]
    pub const fn remarking(self, remark: &'static str) -> Self {
        Self { remark, ..self }
    }

    /// It is about how an answer is given, not about what it is.
    #[must_use]
    pub const fn serves(self) -> Self {
        Self { effect: Effect::Serves, ..self }
    }

    /// It is taken and has no effect.
    #[must_use]
    pub const fn idle(self, why: &'static str) -> Self {
        Self { effect: Effect::Nothing(why), ..self }
    }

    /// It is not supported: its bounds leave its neutral value alone.
    #[must_use]
    pub const fn refused(self, why: &'static str) -> Self {
        Self { effect: Effect::Refused(why), ..self }
    }

    #[must_use]
    pub const fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    #[must_use]
    pub const fn defaulting(self, default: Scalar) -> Self {
        Self { default: Some(default), ..self }
    }

    /// The same with the bounds that one dialect has. Of kinds without bounds nothing changes.
    #[must_use]
    pub const fn within(self, min: f64, max: f64) -> Self {
        let kind = match self.kind {
            Kind::Number { set, .. } => Kind::Number { min, max, set },
            Kind::Integer { unbounded, set, .. } => {
                Kind::Integer { min: min as i64, max: max as i64, unbounded, set }
            }
            other => other,
        };
        Self { kind, ..self }
    }

    /// -1 stands for no bound.
    #[must_use]
    pub const fn unbounded(self) -> Self {
        let kind = match self.kind {
            Kind::Integer { min, max, set, .. } => Kind::Integer { min, max, unbounded: true, set },
            other => other,
        };
        Self { kind, ..self }
    }
}

impl<T> Param<T> {
    /// The same among parameters some of which are composite; a table has none of its own kind.
    #[must_use]
    pub const fn among<W: Copy>(self) -> Param<T, W> {
        let kind = match self.kind {
            Kind::Number { min, max, set } => Kind::Number { min, max, set },
            Kind::Integer { min, max, unbounded, set } => {
                Kind::Integer { min, max, unbounded, set }
            }
            Kind::Switch { set } => Kind::Switch { set },
            Kind::Text { max_chars, set } => Kind::Text { max_chars, set },
            Kind::Texts { max, chars, or_one, set } => Kind::Texts { max, chars, or_one, set },
            Kind::Ids { max, set } => Kind::Ids { max, set },
            Kind::Choice { words, open, set } => Kind::Choice { words, open, set },
            Kind::Table { .. } => panic!("a table is written where it is used"),
            Kind::Json { wire, .. } => match wire {},
        };
        let Self { key, name, doc, remark, effect, is_required, default, .. } = self;
        Param { key, name, doc, remark, kind, effect, is_required, default }
    }
}

/// Where in a request something is read, and who is told what is not heeded.
pub struct Place<'a> {
    /// As whoever sent it would write it: `options.min_p`; empty for the whole.
    pub path: String,
    pub tell: &'a dyn Fn(String),
    /// Whether a name decides what an answer is, so that it cannot be left out where it is not known.
    pub decides: fn(&str) -> bool,
    /// Nothing may be left out.
    pub is_strict: bool,
}

impl Place<'_> {
    /// What stands here under a name.
    #[must_use]
    pub fn at(&self, name: &str) -> Self {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, ..*self }
    }

    /// An error about what stands here; the text follows the path.
    pub fn error(&self, text: impl std::fmt::Display) -> Error {
        Error::invalid(&self.path, format!("{}: {text}", self.path))
    }
}

/// What was given, by key.
#[derive(Clone, Debug, Default)]
pub struct Given {
    all: Vec<GivenParam>,
    /// Keys of what has its default, as nothing was said.
    defaulted: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct GivenParam {
    key: &'static str,
    path: String,
    /// If it is a number, a switch or one of a few words.
    value: Value,
}

impl Given {
    /// How whoever sent it called it.
    #[must_use]
    pub fn path(&self, key: &str) -> Option<&str> {
        self.all.iter().find(|given| given.key == key).map(|given| given.path.as_str())
    }

    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.path(key).is_some()
    }

    /// Whether nothing was said of it and it has a default of the list that was read.
    #[must_use]
    pub fn is_defaulted(&self, key: &str) -> bool {
        self.defaulted.contains(&key)
    }

    /// The number that it is.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        self.all.iter().find(|given| given.key == key)?.value.as_f64()
    }

    fn join(&mut self, other: Self) {
        self.all.extend(other.all);
        self.defaulted.extend(other.defaulted);
    }

    /// An error about a parameter that was given, or about `key` if it was not; the text follows the
    /// path.
    pub fn error(&self, key: &str, text: impl std::fmt::Display) -> Error {
        let path = self.path(key).unwrap_or(key);
        Error::invalid(path, format!("{path} {text}"))
    }
}

/// Takes the values of these parameters out of an object and puts them where they belong. What is not
/// among them stays. Null is absent.
///
/// # Errors
/// A value that the parameter does not have, with the path that the sender knows; names of one thing
/// that say different things.
pub fn read<T, W: Copy>(
    params: &'static [Param<T, W>],
    fields: &mut Map<String, Value>,
    target: &mut T,
    place: &Place,
) -> Result<Given> {
    let mut all = Given::default();
    for param in params {
        let Some(value) = fields.swap_remove(param.name).filter(|value| !value.is_null()) else {
            continue;
        };
        let here = place.at(param.name);
        let kept = match (&value, param.kind) {
            (Value::Number(_) | Value::Bool(_), _) | (Value::String(_), Kind::Choice { .. }) => {
                value.clone()
            }
            _ => Value::Null,
        };
        if let Some(other) = all.all.iter().find(|other| other.key == param.key) {
            if kept.is_null() || kept != other.value {
                let text =
                    format!("it is another name of {}, which says something else", other.path);
                return Err(here.error(text));
            }
            continue;
        }
        if let Kind::Table { params, .. } = param.kind {
            let Value::Object(mut fields) = value else {
                return Err(mistyped(&here, "an object", &value));
            };
            all.join(read(params, &mut fields, target, &here)?);
            refuse_rest(fields, params, &here)?;
        } else {
            param.put(value, target, &here)?;
        }
        all.all.push(GivenParam { key: param.key, path: here.path, value: kept });
    }
    for param in params {
        if all.has(param.key) {
            continue;
        }
        if param.is_required {
            let error = place.at(param.name).error("this required field is missing");
            return Err(error.with_code("missing_required_parameter"));
        }
        all.defaulted.extend(param.default.map(|_| param.key));
        match (param.default, param.kind) {
            (Some(Scalar::Number(value)), Kind::Number { set, .. }) => set(target, value),
            (Some(Scalar::Integer(value)), Kind::Integer { set, .. }) => set(target, value),
            // A table that is absent is one that says nothing.
            (_, Kind::Table { params, .. }) => {
                all.join(read(params, &mut Map::new(), target, &place.at(param.name))?);
            }
            _ => {}
        }
    }
    Ok(all)
}

/// Says again what was said, about another target: numbers, switches and words.
pub fn apply<T, W: Copy>(params: &[Param<T, W>], given: &Given, target: &mut T) {
    for GivenParam { key, value, .. } in &given.all {
        let Some(param) = params.iter().find(|param| param.key == *key) else { continue };
        match (param.kind, value) {
            (Kind::Number { set, .. }, Value::Number(number)) => {
                if let Some(number) = number.as_f64() {
                    set(target, number);
                }
            }
            (Kind::Integer { set, .. }, Value::Number(number)) => {
                if let Some(number) = whole(number).and_then(|number| i64::try_from(number).ok()) {
                    set(target, number);
                }
            }
            (Kind::Switch { set }, Value::Bool(is_on)) => set(target, *is_on),
            (Kind::Choice { words, set, .. }, Value::String(text)) => {
                if let Some(word) = words.iter().find(|word| *word == text) {
                    set(target, word);
                }
            }
            _ => {}
        }
    }
}

/// What is left of a table.
fn refuse_rest<T, W>(
    fields: Map<String, Value>,
    params: &[Param<T, W>],
    place: &Place,
) -> Result<()> {
    for (name, value) in fields {
        let here = place.at(&name);
        let is_near = params.iter().any(|param| is_nearly(&name, param.name));
        if value.is_null() {
            continue;
        }
        if place.is_strict || is_near || (place.decides)(&name) {
            let text = format!("unknown or unsupported parameter {}", here.path);
            return Err(Error::invalid(&here.path, text).with_code("unknown_parameter"));
        }
        (place.tell)(here.path);
    }
    Ok(())
}

impl<T, W: Copy> Param<T, W> {
    fn put(&self, value: Value, target: &mut T, place: &Place) -> Result<()> {
        let bound = |text: String| match self.effect {
            Effect::Refused(why) => place.error(why),
            _ => Error::invalid(&place.path, text),
        };
        let path = &place.path;
        match self.kind {
            Kind::Number { min, max, set } => {
                let number = value.as_f64().ok_or_else(|| mistyped(place, "a number", &value))?;
                if !(min..=max).contains(&number) {
                    return Err(bound(format!("{path} must be from {min} to {max}, is {number}")));
                }
                set(target, number);
            }
            Kind::Integer { min, max, unbounded, set } => {
                let Value::Number(number) = &value else {
                    return Err(mistyped(place, "an integer", &value));
                };
                let whole = whole(number).ok_or_else(|| mistyped(place, "an integer", &value))?;
                let fits = i64::try_from(whole)
                    .ok()
                    .filter(|number| (min..=max).contains(number) || (unbounded && *number == -1));
                let Some(number) = fits else {
                    return Err(bound(format!("{path} must be from {min} to {max}, is {whole}")));
                };
                set(target, number);
            }
            Kind::Switch { set } => {
                let is_on = value.as_bool().ok_or_else(|| mistyped(place, "a boolean", &value))?;
                if let (true, Effect::Refused(why)) = (is_on, self.effect) {
                    return Err(place.error(why));
                }
                set(target, is_on);
            }
            Kind::Text { max_chars, set } => {
                let Value::String(text) = value else {
                    return Err(mistyped(place, "a text", &value));
                };
                if text.chars().nth(max_chars).is_some() {
                    let count = text.chars().count();
                    return Err(bound(format!("{path} has {count} characters, limit {max_chars}")));
                }
                set(target, text);
            }
            Kind::Texts { max, chars, or_one, set } => {
                let texts = match value {
                    Value::String(_) if or_one => {
                        set(target, vec![one_text(value, chars, place)?]);
                        return Ok(());
                    }
                    Value::Array(texts) => texts,
                    other => return Err(mistyped(place, "a list of texts", &other)),
                };
                if texts.len() > max {
                    return Err(bound(format!("{path} has {} texts, limit {max}", texts.len())));
                }
                let texts = texts.into_iter().enumerate();
                let texts = texts.map(|(i, text)| one_text(text, chars, &place.item(i)));
                set(target, texts.collect::<Result<_>>()?);
            }
            Kind::Ids { max, set } => {
                let Value::Array(ids) = value else {
                    return Err(mistyped(place, "a list of token ids", &value));
                };
                if ids.len() > max {
                    return Err(bound(format!("{path} has {} entries, limit {max}", ids.len())));
                }
                let id = |(i, id): (usize, Value)| {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or(id);
                    id.map_err(|other| mistyped(&place.item(i), "a token id", &other))
                };
                set(target, ids.into_iter().enumerate().map(id).collect::<Result<_>>()?);
            }
            Kind::Choice { words, open, set } => {
                let Value::String(text) = value else {
                    return Err(mistyped(place, "a text", &value));
                };
                match words.iter().find(|word| **word == text) {
                    Some(word) => set(target, word),
                    None if open && !place.is_strict => (place.tell)(format!("{path} ({text})")),
                    None => {
                        let shown: String = text.chars().take(64).collect();
                        let text = format!("one of {} is expected, not {shown}", words.join(", "));
                        return Err(place.error(text));
                    }
                }
            }
            Kind::Json { set, .. } => set(target, value, place)?,
            Kind::Table { .. } => return Err(mistyped(place, "a value", &value)),
        }
        Ok(())
    }
}

impl Place<'_> {
    /// An entry of the list that stands here.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        Self { path: format!("{}[{index}]", self.path), ..*self }
    }
}

fn one_text(value: Value, (min, max): (usize, usize), place: &Place) -> Result<String> {
    let Value::String(text) = value else { return Err(mistyped(place, "a text", &value)) };
    if min > 0 && text.is_empty() {
        return Err(place.error("a text must not be empty"));
    }
    if text.chars().nth(max).is_some() {
        let count = text.chars().count();
        return Err(place.error(format!("a text of {count} characters, limit {max}")));
    }
    Ok(text)
}

/// The integer that a number is, also when it is written as 4.0.
fn whole(number: &Number) -> Option<i128> {
    if let Some(number) = number.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = number.as_u64() {
        return Some(number.into());
    }
    number.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 1e30).map(|x| x as i128)
}

fn mistyped(place: &Place, expected: &str, value: &Value) -> Error {
    let given = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    place.error(format!("{expected} is expected, this is {given}"))
}

#[cfg(test)]
mod tests;
