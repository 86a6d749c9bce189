//! Tools on the wire: definitions, and which of them may or must be called.

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::input::missing;
use crate::{
    chat::generation::{Callable, ToolUse},
    error::{Error, Result},
    server::{
        desk::check_name,
        openai::{
            MAX_TOOLS,
            message::ToolKind,
            tools::{AllowedMode, ChoiceKind, ToolMode},
        },
        schema::{FreeObject, optional_objects, wire_type},
    },
};

/// A function that the model may call. Tools that OpenAI's servers run are not supported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponsesTool {
    pub r#type: ToolKind,
    /// 1 to 64 letters, digits, `_`, `-` and `.`.
    pub name: String,
    #[oai(nullable)]
    pub description: Option<String>,
    /// JSON schema of the arguments, an object; absent: there are none.
    #[oai(nullable)]
    pub parameters: Option<FreeObject>,
    /// Arguments follow the schema in every call; false if absent. Where a call is required, they do
    /// anyway.
    #[oai(nullable)]
    pub strict: Option<bool>,
}

/// One of the tools of the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponsesToolName {
    pub r#type: ToolKind,
    pub name: String,
}

/// One function, which is called, or some tools to choose from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponsesToolChoiceObject {
    pub r#type: ChoiceKind,
    /// Required when `type` is `function`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Required when `type` is `allowed_tools`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<AllowedMode>,
    /// Required when `type` is `allowed_tools`.
    #[oai(nullable)]
    #[serde(
        default,
        deserialize_with = "optional_objects",
        skip_serializing_if = "Option::is_none"
    )]
    pub tools: Option<Vec<ResponsesToolName>>,
}

/// A mode, or a choice of tools.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum ResponsesToolChoice {
    Mode(ToolMode),
    Object(ResponsesToolChoiceObject),
}

wire_type!(
    ResponsesToolChoice,
    "responses_tool_choice",
    {
        let one_of = vec![ToolMode::schema_ref(), ResponsesToolChoiceObject::schema_ref()];
        MetaSchema { one_of, ..MetaSchema::ANY }
    },
    ResponsesToolChoiceObject
);

impl<'de> Deserialize<'de> for ResponsesToolChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        match Value::deserialize(deserializer)? {
            text @ Value::String(_) => serde_json::from_value(text).map(Self::Mode),
            object @ Value::Object(_) => serde_json::from_value(object).map(Self::Object),
            _ => return Err(D::Error::custom("expected a string or an object")),
        }
        .map_err(D::Error::custom)
    }
}

/// The tools that a request may call; `None` if it may call none.
pub(super) fn tool_use(
    tools: &[ResponsesTool],
    choice: Option<&ResponsesToolChoice>,
    parallel: bool,
) -> Result<Option<ToolUse>> {
    if tools.len() > MAX_TOOLS {
        let text = format!("tools: {} tools, limit {MAX_TOOLS}", tools.len());
        return Err(Error::invalid("tools", text));
    }
    let mut callable = callables(tools)?;
    let mut is_named = false;
    let must_call = match choice {
        None | Some(ResponsesToolChoice::Mode(ToolMode::Auto)) => false,
        Some(ResponsesToolChoice::Mode(ToolMode::None)) => return Ok(None),
        Some(ResponsesToolChoice::Mode(ToolMode::Required)) => true,
        Some(ResponsesToolChoice::Object(choice)) => {
            let (names, must_call) = choice.names()?;
            callable = pick(&callable, &names)?;
            // A function that is named is called once.
            is_named = choice.r#type == ChoiceKind::Function;
            must_call
        }
    };
    if callable.is_empty() {
        return match must_call {
            false => Ok(None),
            true => Err(Error::invalid("tool_choice", "tool_choice: there are no tools to choose")),
        };
    }
    let definitions = tools.iter().map(ResponsesTool::definition).collect();
    Ok(Some(ToolUse { definitions, callable, must_call, parallel: parallel && !is_named }))
}

impl ResponsesToolChoiceObject {
    /// Names of tools with their fields, and whether one of them has to be called.
    fn names(&self) -> Result<(Vec<(String, String)>, bool)> {
        match (self.r#type, &self.name, self.mode, &self.tools) {
            (ChoiceKind::Function, Some(name), None, None) => {
                Ok((vec![("tool_choice.name".to_owned(), name.clone())], true))
            }
            (ChoiceKind::AllowedTools, None, Some(mode), Some(tools)) if !tools.is_empty() => {
                let field = |i| format!("tool_choice.tools[{i}].name");
                let tools = tools.iter().enumerate();
                let names = tools.map(|(i, tool)| (field(i), tool.name.clone()));
                Ok((names.collect(), mode == AllowedMode::Required))
            }
            (ChoiceKind::AllowedTools, None, Some(_), Some(_)) => {
                let text = "tool_choice.tools: at least one tool is required";
                Err(Error::invalid("tool_choice.tools", text))
            }
            (ChoiceKind::Function, None, ..) => Err(missing("tool_choice.name")),
            (ChoiceKind::AllowedTools, _, None, _) => Err(missing("tool_choice.mode")),
            (ChoiceKind::AllowedTools, _, _, None) => Err(missing("tool_choice.tools")),
            _ => {
                let text = "tool_choice: it has a field that does not belong to its type";
                Err(Error::invalid("tool_choice", text))
            }
        }
    }
}

impl ResponsesTool {
    /// As chat templates know it.
    fn definition(&self) -> Value {
        let mut function = json!({ "name": self.name });
        if let Some(description) = &self.description {
            function["description"] = description.as_str().into();
        }
        function["parameters"] = match &self.parameters {
            Some(schema) => Value::Object(schema.0.clone()),
            None => json!({ "type": "object", "properties": {} }),
        };
        json!({ "type": "function", "function": function })
    }
}

fn callables(tools: &[ResponsesTool]) -> Result<Vec<Callable>> {
    let mut all: Vec<Callable> = Vec::with_capacity(tools.len());
    for (i, tool) in tools.iter().enumerate() {
        let name = format!("tools[{i}].name");
        check_name(&name, &tool.name)?;
        if all.iter().any(|other| other.name == tool.name) {
            let text = format!("{name}: another tool is called {} too", tool.name);
            return Err(Error::invalid(name, text));
        }
        let schema = tool.parameters.clone().unwrap_or_default().0;
        let field = format!("tools[{i}].parameters");
        if schema.get("type").is_some_and(|kind| kind != "object") {
            let text = format!("{field}: the arguments of a function are an object");
            return Err(Error::invalid(field, text));
        }
        let strict = tool.strict.unwrap_or(false);
        let parameters = Value::Object(schema);
        all.push(Callable { name: tool.name.clone(), parameters, strict, field, loose: false });
    }
    Ok(all)
}

fn pick(callable: &[Callable], names: &[(String, String)]) -> Result<Vec<Callable>> {
    let find = |(field, name): &(String, String)| {
        callable.iter().find(|tool| tool.name == *name).cloned().ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Error::invalid(field, format!("{field}: no tool is called {shown}"))
        })
    };
    names.iter().map(find).collect()
}
