//! Tools on the wire: definitions, and which of them may or must be called.

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::ToolKind;
use crate::{
    chat::generation::{Callable, ToolUse},
    error::{Error, Result},
    server::{
        desk::check_name,
        schema::{FreeObject, object, objects, optional_object, wire_enum, wire_type},
    },
};

/// Tools of one request.
pub(crate) const MAX_TOOLS: usize = 128;

/// A tool that the model may call.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct Tool {
    pub r#type: ToolKind,
    #[serde(deserialize_with = "object")]
    pub function: FunctionDefinition,
}

/// What the model is told about a function.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct FunctionDefinition {
    /// 1 to 64 letters, digits, `_`, `-` and `.`.
    pub name: String,
    #[oai(nullable)]
    pub description: Option<String>,
    /// JSON schema of the arguments, an object; absent: there are none.
    #[oai(nullable)]
    pub parameters: Option<FreeObject>,
    /// Arguments follow the schema in every call. Where a call is required, they do anyway.
    #[oai(nullable)]
    pub strict: Option<bool>,
}

wire_enum! {
    /// Whether tools are called.
    pub(crate) enum ToolMode {
        None = "none",
        Auto = "auto",
        Required = "required",
    }
}

wire_enum! {
    /// How a choice of tools is described.
    pub(crate) enum ChoiceKind {
        Function = "function",
        AllowedTools = "allowed_tools",
    }
}

wire_enum! {
    /// Whether one of the allowed tools has to be called.
    pub(crate) enum AllowedMode {
        Auto = "auto",
        Required = "required",
    }
}

/// The name of a function.
#[derive(Clone, Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct FunctionName {
    pub name: String,
}

/// One of the tools of the request.
#[derive(Clone, Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct NamedTool {
    pub r#type: ToolKind,
    #[serde(deserialize_with = "object")]
    pub function: FunctionName,
}

/// Some of the tools of the request.
#[derive(Clone, Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AllowedTools {
    pub mode: AllowedMode,
    #[serde(deserialize_with = "objects")]
    pub tools: Vec<NamedTool>,
}

/// One function, which is called, or some tools to choose from.
#[derive(Clone, Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ToolChoiceObject {
    pub r#type: ChoiceKind,
    /// Required when `type` is `function`.
    #[oai(nullable)]
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub function: Option<FunctionName>,
    /// Required when `type` is `allowed_tools`.
    #[oai(nullable)]
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub allowed_tools: Option<AllowedTools>,
}

/// A mode, or a choice of tools.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum ToolChoice {
    Mode(ToolMode),
    Object(ToolChoiceObject),
}

wire_type!(
    ToolChoice,
    "tool_choice",
    {
        MetaSchema {
            one_of: vec![ToolMode::schema_ref(), ToolChoiceObject::schema_ref()],
            ..MetaSchema::ANY
        }
    },
    ToolChoiceObject
);

impl<'de> Deserialize<'de> for ToolChoice {
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

/// The fields of a request that are about tools.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToolFields {
    pub tools: Option<Vec<Tool>>,
    pub tool_choice: Option<ToolChoice>,
    pub parallel_tool_calls: Option<bool>,
}

impl ToolFields {
    /// The tools that this request may call; `None` if it may call none.
    pub(crate) fn into_use(self) -> Result<Option<ToolUse>> {
        let tools = self.tools.unwrap_or_default();
        if tools.len() > MAX_TOOLS {
            let text = format!("tools: {} tools, limit {MAX_TOOLS}", tools.len());
            return Err(Error::invalid("tools", text));
        }
        let callable = callables(&tools)?;
        // A function that is named is called once.
        let is_named = matches!(
            &self.tool_choice,
            Some(ToolChoice::Object(choice)) if choice.r#type == ChoiceKind::Function
        );
        let (allowed, must_call) = match self.tool_choice {
            None | Some(ToolChoice::Mode(ToolMode::Auto)) => (None, false),
            Some(ToolChoice::Mode(ToolMode::None)) => return Ok(None),
            Some(ToolChoice::Mode(ToolMode::Required)) => (None, true),
            Some(ToolChoice::Object(choice)) => choice.into_names()?,
        };
        if tools.is_empty() {
            return match (must_call, allowed) {
                (false, None) => Ok(None),
                _ => {
                    Err(Error::invalid("tool_choice", "tool_choice: there are no tools to choose"))
                }
            };
        }
        let callable = match allowed {
            None => callable,
            Some(names) => pick(&callable, &names)?,
        };
        Ok(Some(ToolUse {
            definitions: tools.into_iter().map(Tool::into_definition).collect(),
            callable,
            must_call,
            parallel: !is_named && self.parallel_tool_calls.unwrap_or(true),
        }))
    }
}

impl ToolChoiceObject {
    /// Names of tools with their fields, and whether one of them has to be called.
    fn into_names(self) -> Result<(Option<Vec<(String, String)>>, bool)> {
        let missing = |field: &str| {
            let text = format!("{field}: this required field is missing");
            Err(Error::invalid(field, text).with_code("missing_required_parameter"))
        };
        match (self.r#type, self.function, self.allowed_tools) {
            (ChoiceKind::Function, Some(function), None) => {
                let field = "tool_choice.function.name".to_owned();
                Ok((Some(vec![(field, function.name)]), true))
            }
            (ChoiceKind::AllowedTools, None, Some(allowed)) => {
                let must_call = allowed.mode == AllowedMode::Required;
                let field = |i| format!("tool_choice.allowed_tools.tools[{i}].function.name");
                let names = allowed.tools.into_iter().enumerate();
                let names: Vec<_> = names.map(|(i, tool)| (field(i), tool.function.name)).collect();
                if names.is_empty() {
                    let field = "tool_choice.allowed_tools.tools";
                    let text = format!("{field}: at least one tool is required");
                    return Err(Error::invalid(field, text));
                }
                Ok((Some(names), must_call))
            }
            (ChoiceKind::Function, None, None) => missing("tool_choice.function"),
            (ChoiceKind::AllowedTools, None, None) => missing("tool_choice.allowed_tools"),
            _ => {
                let text = "tool_choice: it has a field that does not belong to its type";
                Err(Error::invalid("tool_choice", text))
            }
        }
    }
}

impl Tool {
    /// As chat templates know it.
    fn into_definition(self) -> Value {
        let FunctionDefinition { name, description, parameters, strict: _ } = self.function;
        let mut function = Map::new();
        function.insert("name".to_owned(), name.into());
        if let Some(description) = description {
            function.insert("description".to_owned(), description.into());
        }
        let parameters = parameters.map_or_else(no_parameters, |schema| Value::Object(schema.0));
        function.insert("parameters".to_owned(), parameters);
        json!({"type": "function", "function": function})
    }
}

fn no_parameters() -> Value {
    json!({"type": "object", "properties": {}})
}

fn callables(tools: &[Tool]) -> Result<Vec<Callable>> {
    let mut all: Vec<Callable> = Vec::with_capacity(tools.len());
    for (i, Tool { function, .. }) in tools.iter().enumerate() {
        let path = format!("tools[{i}].function");
        check_name(&format!("{path}.name"), &function.name)?;
        if all.iter().any(|other| other.name == function.name) {
            let text = format!("{path}.name: another tool is called {} too", function.name);
            return Err(Error::invalid(format!("{path}.name"), text));
        }
        let schema = function.parameters.clone().unwrap_or_default().0;
        let field = format!("{path}.parameters");
        if schema.get("type").is_some_and(|kind| kind != "object") {
            let text = format!("{field}: the arguments of a function are an object");
            return Err(Error::invalid(field, text));
        }
        all.push(Callable {
            name: function.name.clone(),
            parameters: Value::Object(schema),
            strict: function.strict.unwrap_or(false),
            field,
            loose: false,
        });
    }
    Ok(all)
}

/// The tools of these names, each with the field that it stands in.
pub(crate) fn pick(callable: &[Callable], names: &[(String, String)]) -> Result<Vec<Callable>> {
    let find = |(field, name): &(String, String)| {
        callable.iter().find(|tool| tool.name == *name).cloned().ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Error::invalid(field, format!("{field}: no tool is called {shown}"))
        })
    };
    names.iter().map(find).collect()
}
