//! Calls, and the functions that may be called.

use serde_json::Value;

use crate::chat::json_pieces::NotJson;
use crate::chat::partial;

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Callable {
    /// Letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// JSON schema of an object.
    pub parameters: Value,
    /// Arguments follow the schema even where the model is free to call or not.
    pub strict: bool,
    /// Path of the schema in the request, for errors.
    pub field: String,
    /// What of the schema the compiler does not know is skipped; only where that is told.
    pub loose: bool,
}

/// A call that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Position among the calls of the answer.
    pub index: u32,
    /// Made by us, unique; in the form that the model's template accepts.
    pub id: String,
    pub name: String,
    /// JSON text of an object, unless the answer broke off within it.
    pub arguments: String,
}

impl ToolCall {
    /// The arguments; of a call that broke off, what came of them.
    pub fn object(&self) -> serde_json::Map<String, Value> {
        partial::object(&self.arguments)
    }
}

/// A piece of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallDelta {
    /// Position among the calls of the answer.
    pub index: u32,
    /// In the first piece.
    pub start: Option<CallStart>,
    /// Pieces put together are the arguments as JSON text.
    pub arguments: String,
    /// In the last piece; a call that broke off has none.
    pub ends: bool,
}

/// What is known of a call when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallStart {
    /// Made by us, unique; in the form that the model's template accepts.
    pub id: String,
    pub name: String,
}

impl CallDelta {
    /// Adds a piece to the calls that it belongs to; the call that is complete with it.
    pub fn add_to(self, calls: &mut Vec<ToolCall>) -> Option<&ToolCall> {
        if let Some(CallStart { id, name }) = self.start {
            calls.push(ToolCall { index: self.index, id, name, arguments: String::new() });
        }
        let call = calls.iter_mut().rev().find(|call| call.index == self.index)?;
        call.arguments.push_str(&self.arguments);
        self.ends.then_some(&*call)
    }
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it.
    Whole,
    /// A stop string did, which may stand where a call could end.
    Stopped,
    /// The model would go on.
    Cut,
}

/// A stretch of a model's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    Text(String),
    Call(CallDelta),
}

/// What was read is no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl From<NotJson> for Malformed {
    fn from(_: NotJson) -> Self {
        Self
    }
}

/// The tools of a request, which tell the types of arguments that are written without quotes.
pub(super) struct Definitions(pub(super) Value);

impl Definitions {
    pub(super) fn function(&self, name: &str) -> Option<&Value> {
        let tools = self.0.as_array()?;
        let functions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
        functions.into_iter().find(|function| function.get("name").is_some_and(|n| n == name))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.function(name).is_some()
    }

    /// Whether a text without marks may be the beginning of a call.
    pub(super) fn begins_call(&self, text: &str) -> bool {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let tools = self.0.as_array().map(Vec::as_slice).unwrap_or_default();
        let names = tools.iter().filter_map(|t| t.get("function").unwrap_or(t)["name"].as_str());
        names.into_iter().any(|name| {
            let forms = [
                format!("{{\"name\":\"{name}\""),
                format!("{{\"type\":\"function\",\"name\":\"{name}\""),
                format!("[{{\"name\":\"{name}\""),
                format!("[{name}("),
            ];
            forms.iter().any(|form| form.starts_with(&text) || text.starts_with(form))
        })
    }

    /// Whether an argument is a text by its schema.
    pub(super) fn is_text(&self, name: &str, key: &str) -> bool {
        let schema =
            self.function(name).and_then(|f| f.pointer("/parameters/properties")?.get(key));
        let Some(schema) = schema else { return false };
        let texts = |list: &Value| {
            list.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_string))
        };
        match schema.get("type") {
            Some(kind) => kind == "string",
            None => {
                schema.get("enum").is_some_and(texts)
                    || schema.get("const").is_some_and(Value::is_string)
            }
        }
    }

    /// A value written without quotes: text where the schema says so, else JSON if it is JSON.
    pub(super) fn typed(&self, name: &str, key: &str, text: &str) -> Value {
        match serde_json::from_str(text) {
            Ok(value) if !self.is_text(name, key) => value,
            _ => Value::String(text.to_owned()),
        }
    }
}
