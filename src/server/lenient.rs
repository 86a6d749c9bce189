//! Reading requests of clients that know more than this server: what is a hint, an annotation, telemetry,
//! a bound or neutral is taken and told; what would make the answer a lie is refused by name.
//!
//! A request is read strictly first. Where that fails, the reason says what is not known and where, and
//! the request is read again without it, unless
//! - the name is one that shapes answers elsewhere, such as `grammar`,
//! - it is nearly the name of something that is known: then it is a typing error, or
//! - it is something that the model would have to see or hear.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::body::{describe, join};
use crate::{
    error::Error,
    param::{Place, is_nearly},
};

/// Times that a request is read again, and bytes of it that are read again altogether.
const MAX_READINGS: usize = 128;
const MAX_READ_BYTES: usize = 256 << 20;
/// What a model that reads texts cannot take; the answer would be about something else.
const SENSES: [&str; 5] = ["image", "audio", "video", "file", "document"];
/// Lists whose elements of unknown types are left out: tools that others run, and what became of them.
const OPEN_LISTS: [&str; 3] = ["tools", "input", "content"];
/// Fields whose values are hints: one that is not known is no hint.
const HINTS: [&str; 9] = [
    "cache_control",
    "detail",
    "display",
    "effort",
    "include",
    "scope",
    "summary",
    "truncation",
    "ttl",
];
const INTEGERS: [&str; 8] = ["u8", "u16", "u32", "u64", "usize", "i32", "i64", "integer"];

/// Reads what stands at a place of a request.
///
/// # Errors
/// What is wrong with it, with the path.
pub(super) fn read_at<T: DeserializeOwned>(value: Value, place: &Place) -> Result<T, Error> {
    // Parameters are small beside prompts, which are not read so.
    let reading = Reading { num_bytes: 1 << 16, place, is_near: &|_| false };
    reading.read(value)
}

/// How a body is read again.
pub(super) struct Reading<'a> {
    /// Of the body, as it came.
    pub(super) num_bytes: usize,
    pub(super) place: &'a Place<'a>,
    /// Whether a name was meant for one that is known but not read here.
    pub(super) is_near: &'a dyn Fn(&str) -> bool,
}

impl Reading<'_> {
    /// Reads a body, and where it could not be read as it is, again without what may be left out.
    ///
    /// # Errors
    /// What is wrong with it, with the path.
    pub(super) fn read<T: DeserializeOwned>(&self, mut body: Value) -> Result<T, Error> {
        let readings = (MAX_READ_BYTES / self.num_bytes.max(1)).clamp(2, MAX_READINGS);
        for reading in 1.. {
            let error = match serde_path_to_error::deserialize::<_, T>(&body) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let mended = (reading < readings).then(|| self.mend(&mut body, &error)).flatten();
            match mended {
                Some(Mended::Told(what)) => (self.place.tell)(join(&self.place.path, &what)),
                Some(Mended::Meant) => {}
                None => return Err(describe(&error, &self.place.path)),
            }
        }
        Err(Error::internal("an endless reading ended"))
    }

    fn mend(
        &self,
        body: &mut Value,
        error: &serde_path_to_error::Error<serde_json::Error>,
    ) -> Option<Mended> {
        let is_strict = self.place.is_strict;
        let text = error.inner().to_string();
        let mut path: Vec<Step> = error.path().iter().filter_map(step).collect();
        if let Some(name) = quoted_after(&text, "unknown field `") {
            if path.last() == Some(&Step::Key(name.clone())) {
                path.pop();
            }
            let is_mistyped = known(&text).any(|known| is_nearly(&name, known))
                || (path.is_empty() && (self.is_near)(&name));
            let is_refused = is_strict || is_mistyped || (self.place.decides)(&name);
            return unknown_field(body, &path, &name, is_refused);
        }
        if let Some(variant) = quoted_after(&text, "unknown variant `").filter(|_| !is_strict) {
            return unknown_variant(body, &path, &variant);
        }
        let (last, parents) = path.split_last()?;
        let Step::Key(key) = last else { return None };
        let parent = at(body, parents)?.as_object_mut()?;
        let value = parent.get_mut(key)?;
        if text.starts_with("invalid type: null") {
            parent.remove(key);
            return Some(Mended::Meant);
        }
        if text.starts_with("invalid type: floating point") && expects_integer(&text) {
            let number = value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15)?;
            *value = (number as i64).into();
            return Some(Mended::Meant);
        }
        None
    }
}

enum Mended {
    /// Left out, to be told.
    Told(String),
    /// What it says is another way to say what is known.
    Meant,
}

/// A step down into a body.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

fn unknown_field(
    body: &mut Value,
    parents: &[Step],
    name: &str,
    is_refused: bool,
) -> Option<Mended> {
    let object = at(body, parents)?.as_object_mut()?;
    if object.get(name)?.is_null() {
        object.remove(name);
        return Some(Mended::Meant);
    }
    if is_refused {
        return None;
    }
    let shown = shown(parents, name);
    // What one element of a list has the others have as well.
    let list = parents.iter().rposition(|step| matches!(step, Step::Index(_)));
    let Some(list) = list else {
        at(body, parents)?.as_object_mut()?.remove(name);
        return Some(Mended::Told(shown));
    };
    for item in at(body, &parents[..list])?.as_array_mut()? {
        let inner = at(item, &parents[list + 1..]).and_then(Value::as_object_mut);
        inner.map(|object| object.remove(name));
    }
    Some(Mended::Told(shown))
}

fn unknown_variant(body: &mut Value, path: &[Step], variant: &str) -> Option<Mended> {
    let key = path.iter().rev().find_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    })?;
    if HINTS.contains(&key) {
        let (last, parents) = path.split_last()?;
        let shown = format!("{} ({variant})", shown(path, ""));
        match (at(body, parents)?, last) {
            (Value::Object(object), Step::Key(key)) => {
                object.remove(key);
            }
            (Value::Array(items), Step::Index(index)) if *index < items.len() => {
                items.remove(*index);
            }
            _ => return None,
        }
        return Some(Mended::Told(shown));
    }
    let [parents @ .., Step::Key(list), Step::Index(index), Step::Key(kind)] = path else {
        return None;
    };
    if kind != "type" || !OPEN_LISTS.contains(&list.as_str()) {
        return None;
    }
    let is_tool = list == "tools";
    let is_past = list == "content" && is_past(body, parents);
    let is_seen = SENSES.iter().any(|sense| variant.contains(sense));
    if !is_tool && !is_past && (is_seen || list == "content") {
        return None;
    }
    let mut place = parents.to_vec();
    place.push(Step::Key(list.clone()));
    let items = at(body, &place)?.as_array_mut()?;
    let is_it = |item: &Value| item.get("type").and_then(Value::as_str) == Some(variant);
    // Where nothing else is left there is nothing to answer.
    if !is_tool && items.iter().all(is_it) {
        return None;
    }
    items.retain(|item| !is_it(item));
    Some(Mended::Told(format!("{}[{index}] ({variant})", shown(&place, ""))))
}

/// Whether a message is not the last: what it held that this server cannot read has been answered.
fn is_past(body: &mut Value, message: &[Step]) -> bool {
    let [list @ .., Step::Index(index)] = message else { return false };
    let messages = at(body, list).and_then(|list| list.as_array());
    messages.is_some_and(|messages| index + 1 < messages.len())
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn at<'a>(body: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(body, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

fn shown(path: &[Step], name: &str) -> String {
    let name = (!name.is_empty()).then(|| Step::Key(name.to_owned()));
    let mut text = String::new();
    for step in path.iter().chain(&name) {
        match step {
            Step::Index(index) => text = format!("{text}[{index}]"),
            Step::Key(key) if text.is_empty() => text.clone_from(key),
            Step::Key(key) => text = format!("{text}.{key}"),
        }
    }
    text
}

fn quoted_after(text: &str, start: &str) -> Option<String> {
    text.strip_prefix(start)?.split('`').next().map(str::to_owned)
}

/// The names that serde lists behind `expected`.
fn known(text: &str) -> impl Iterator<Item = &str> {
    let list = text.split_once("expected").map_or("", |(_, list)| list);
    list.split('`').skip(1).step_by(2)
}

fn expects_integer(text: &str) -> bool {
    let expected = text.split_once("expected ").map_or("", |(_, expected)| expected);
    let word = expected.split([' ', ',']).next().unwrap_or_default();
    INTEGERS.contains(&word)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::server::ignored::Ignored;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Request {
        model: String,
        max_tokens: Option<u32>,
        top_p: Option<f64>,
        #[serde(default)]
        tools: Vec<Tool>,
        #[serde(default)]
        messages: Vec<Message>,
        thinking: Option<Thinking>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Message {
        content: Vec<Tool>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Tool {
        r#type: Kind,
        name: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Function,
        Text,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Thinking {
        display: Option<Kind>,
    }

    fn reading(body: Value) -> Result<(Request, String), Error> {
        let ignored = Ignored::default();
        let tell = |what: String| ignored.note(what);
        let decides = crate::server::desk::decides;
        let place = Place { path: String::new(), tell: &tell, decides, is_strict: false };
        let reading = Reading { num_bytes: 100, place: &place, is_near: &|_| false };
        let request = reading.read(body)?;
        let mut headers = poem::http::HeaderMap::new();
        ignored.tell(&mut headers);
        let told = headers.values().next().map_or("", |value| value.to_str().unwrap());
        Ok((request, told.to_owned()))
    }

    #[test]
    fn hints_are_taken_and_told() {
        let cases = [
            (json!({"client_metadata": {"a": 1}}), "client_metadata"),
            (json!({"thinking": {"display": "omitted"}}), "thinking.display (omitted)"),
            (json!({"thinking": {"budget": 5}}), "thinking.budget"),
            (
                json!({"tools": [{"type": "function", "defer": true}, {"type": "function", "defer": 1}]}),
                "tools[0].defer",
            ),
            (
                json!({"tools": [{"type": "web_search"}, {"type": "function"}, {"type": "web_search"}]}),
                "tools[0] (web_search)",
            ),
            (json!({"unknown": null}), ""),
            (json!({"max_tokens": null, "top_p": null}), ""),
            (json!({"max_tokens": 4.0}), ""),
        ];
        for (mut body, told) in cases {
            body["model"] = "m".into();
            let text = body.to_string();
            let (request, got) = reading(body).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(got, told, "{text}");
            assert!(request.tools.len() != 3, "{text}");
        }
    }

    #[test]
    fn what_would_be_a_lie_or_is_a_mistake_is_refused() {
        let message = |kind: &str| json!({"content": [{"type": kind}]});
        let cases = [
            (json!({"grammar": "x"}), "grammar"),
            (json!({"max_token": 5}), "max_token"),
            (json!({"topP": 0.5}), "topP"),
            (json!({"toolz": []}), "toolz"),
            (json!({"max_tokens": 4.5}), "max_tokens"),
            (json!({"max_tokens": -2}), "max_tokens"),
            (json!({"max_tokens": "5"}), "max_tokens"),
            (json!({"messages": [message("strange")]}), "messages[0].content[0].type"),
            (
                json!({"messages": [message("image"), message("text")]}),
                "messages[0].content[0].type",
            ),
        ];
        for (mut body, path) in cases {
            body["model"] = "m".into();
            let text = body.to_string();
            let error = reading(body).expect_err(&text);
            assert_eq!(error.param.as_deref(), Some(path), "{text}");
        }
        let two = json!({"content": [{"type": "strange"}, {"type": "text"}]});
        let past = json!({"model": "m", "messages": [two, message("text")]});
        assert!(reading(past).unwrap().1.contains("(strange)"));
        let seen = json!({"content": [{"type": "image"}, {"type": "text"}]});
        let past = json!({"model": "m", "messages": [seen, message("text")]});
        assert!(reading(past).unwrap().1.contains("(image)"), "it has been answered");
        let new = json!({"model": "m", "messages": [message("text"), seen]});
        assert!(reading(new).is_err());
    }
}
