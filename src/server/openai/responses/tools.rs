//! Tools on the wire: definitions, and which of them may or must be called.

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    input::missing,
    items::{CustomCallKind, ResponsesCall, ResponsesCustomCall, ResponsesItem},
};
use crate::{
    chat::{
        generation::{Callable, ToolUse},
        partial,
    },
    error::{Error, Result},
    server::{
        common::{AllowedMode, ChoiceKind, MAX_TOOLS, ToolKind, ToolMode, pick},
        desk::check_name,
        schema::{FreeObject, optional_objects, wire_enum, wire_type},
    },
};

wire_enum! {
    /// What a tool is. Tools that OpenAI's servers run are left out.
    pub(crate) enum ResponsesToolKind {
        Function = "function",
        /// A tool that is given a text.
        Custom = "custom",
        /// Tools under one name.
        Namespace = "namespace",
    }
}

/// A tool that the model may call; which fields it has depends on its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponsesTool {
    pub r#type: ResponsesToolKind,
    /// 1 to 64 letters, digits, `_`, `-` and `.`.
    pub name: String,
    #[oai(nullable)]
    pub description: Option<String>,
    /// Of a `function`: JSON schema of the arguments, an object; absent: there are none.
    #[oai(nullable)]
    pub parameters: Option<FreeObject>,
    /// Of a `function`: arguments follow the schema in every call; false if absent. Where a call is
    /// required, they do anyway.
    #[oai(nullable)]
    pub strict: Option<bool>,
    /// Of a `custom` tool: what its text looks like. The model is told a grammar, and not held to it.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<FreeObject>,
    /// Of a `namespace`, functions and custom tools. The model knows them as `namespace__name`.
    #[oai(nullable)]
    #[serde(
        default,
        deserialize_with = "optional_objects",
        skip_serializing_if = "Option::is_none"
    )]
    pub tools: Option<Vec<ResponsesTool>>,
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
    let offered = offered(tools)?;
    if offered.len() > MAX_TOOLS {
        let text = format!("tools: {} tools, limit {MAX_TOOLS}", offered.len());
        return Err(Error::invalid("tools", text));
    }
    let mut callable = callables(&offered)?;
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
    let definitions = offered.iter().map(Offered::definition).collect();
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
    /// Says what holds where the request is silent.
    pub(super) fn complete(&mut self) {
        if self.r#type == ResponsesToolKind::Function {
            self.strict.get_or_insert(false);
        }
        self.tools.iter_mut().flatten().for_each(Self::complete);
    }

    /// A field that belongs to another type of tool is a mistake.
    fn check(&self, path: &str) -> Result<()> {
        use ResponsesToolKind::{Custom, Function, Namespace};

        check_name(&format!("{path}.name"), &self.name)?;
        let fields = [
            ("parameters", self.parameters.is_some(), Function),
            ("strict", self.strict.is_some(), Function),
            ("format", self.format.is_some(), Custom),
            ("tools", self.tools.is_some(), Namespace),
        ];
        match fields.iter().find(|(_, given, owner)| *given && *owner != self.r#type) {
            Some((name, ..)) => {
                let field = format!("{path}.{name}");
                let text = format!("{field}: a tool of this type has no such field");
                Err(Error::invalid(field, text))
            }
            None => Ok(()),
        }
    }

    /// What the text of a custom tool looks like, unless it is free.
    fn grammar(&self) -> Option<&str> {
        self.format.as_ref()?.0.get("definition")?.as_str()
    }
}

/// The argument of a function that stands for a custom tool.
pub(super) const INPUT: &str = "input";

/// The name that the model knows a tool by, which is the one that Codex gives it where namespaces are
/// not known.
pub(super) fn flat_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        None => name.to_owned(),
        Some(space) => {
            format!("{}__{}", space.trim_end_matches('_'), name.trim_start_matches('_'))
        }
    }
}

/// A tool as the model is offered it.
struct Offered<'a> {
    tool: &'a ResponsesTool,
    namespace: Option<&'a str>,
    /// Of the tool in the request.
    path: String,
}

/// The tools, those in namespaces among them.
fn listed(tools: &[ResponsesTool]) -> impl Iterator<Item = Offered<'_>> {
    tools.iter().enumerate().flat_map(|(i, tool)| {
        let path = format!("tools[{i}]");
        let inner = tool.tools.iter().flatten().enumerate().map({
            let path = path.clone();
            move |(j, inner)| Offered {
                tool: inner,
                namespace: Some(tool.name.as_str()),
                path: format!("{path}.tools[{j}]"),
            }
        });
        let is_one = tool.r#type != ResponsesToolKind::Namespace;
        is_one.then_some(Offered { tool, namespace: None, path }).into_iter().chain(inner)
    })
}

/// The tools, each checked.
fn offered(tools: &[ResponsesTool]) -> Result<Vec<Offered<'_>>> {
    for (i, tool) in tools.iter().enumerate() {
        tool.check(&format!("tools[{i}]"))?;
    }
    let offered: Vec<_> = listed(tools).collect();
    for one in &offered {
        one.tool.check(&one.path)?;
        if one.tool.r#type == ResponsesToolKind::Namespace {
            let field = format!("{}.type", one.path);
            let text = format!("{field}: a namespace holds functions and custom tools");
            return Err(Error::invalid(field, text));
        }
    }
    Ok(offered)
}

impl Offered<'_> {
    fn name(&self) -> String {
        flat_name(self.namespace, &self.tool.name)
    }

    fn is_custom(&self) -> bool {
        self.tool.r#type == ResponsesToolKind::Custom
    }

    /// As chat templates know it.
    fn definition(&self) -> Value {
        let mut function = json!({ "name": self.name() });
        let description = match (&self.tool.description, self.tool.grammar()) {
            (Some(text), Some(grammar)) => Some(format!("{text}\n\n{INPUT}: {grammar}")),
            (None, Some(grammar)) => Some(format!("{INPUT}: {grammar}")),
            (text, None) => text.clone(),
        };
        if let Some(description) = description {
            function["description"] = description.into();
        }
        function["parameters"] = match &self.tool.parameters {
            Some(schema) => Value::Object(schema.0.clone()),
            None if self.is_custom() => input_schema(),
            None => json!({ "type": "object", "properties": {} }),
        };
        json!({ "type": "function", "function": function })
    }
}

fn input_schema() -> Value {
    json!({
        "type": "object",
        "properties": { INPUT: { "type": "string" } },
        "required": [INPUT],
        "additionalProperties": false,
    })
}

fn callables(offered: &[Offered<'_>]) -> Result<Vec<Callable>> {
    let mut all: Vec<Callable> = Vec::with_capacity(offered.len());
    for one in offered {
        let (name, field) = (one.name(), format!("{}.parameters", one.path));
        if all.iter().any(|other| other.name == name) {
            let field = format!("{}.name", one.path);
            let text = format!("{field}: another tool is called {name} too");
            return Err(Error::invalid(field, text));
        }
        let schema = one.tool.parameters.clone().unwrap_or_default().0;
        if schema.get("type").is_some_and(|kind| kind != "object") {
            let text = format!("{field}: the arguments of a function are an object");
            return Err(Error::invalid(field, text));
        }
        let parameters = if one.is_custom() { input_schema() } else { Value::Object(schema) };
        let strict = one.tool.strict.unwrap_or(false);
        all.push(Callable { name, parameters, strict, field, loose: false });
    }
    Ok(all)
}

/// What the tools ask for that the model is not held to.
pub(super) fn unenforced(tools: &[ResponsesTool]) -> Vec<String> {
    let with_grammar = listed(tools).filter(|one| one.tool.grammar().is_some());
    with_grammar.map(|one| format!("{}.format", one.path)).collect()
}

/// Whether a tool that the model knows by this name is a custom one.
pub(super) fn is_custom(name: &str, tools: &[ResponsesTool]) -> bool {
    listed(tools).any(|one| one.is_custom() && one.name() == name)
}

/// A call as the client knows it, of a tool that the model called by its flat name.
pub(super) fn answered(mut call: ResponsesCall, tools: &[ResponsesTool]) -> ResponsesItem {
    let Some(one) = listed(tools).find(|one| one.name() == call.name) else {
        return ResponsesItem::Call(call);
    };
    call.name.clone_from(&one.tool.name);
    call.namespace = one.namespace.map(str::to_owned);
    if !one.is_custom() {
        return ResponsesItem::Call(call);
    }
    // Arguments of another form are all that there is.
    let input = match partial::object(&call.arguments).remove(INPUT) {
        Some(Value::String(input)) => input,
        _ => call.arguments,
    };
    ResponsesItem::CustomCall(ResponsesCustomCall {
        id: call.id.replacen("fc_", "ctc_", 1),
        r#type: CustomCallKind::Only,
        call_id: call.call_id,
        namespace: call.namespace,
        name: call.name,
        input,
        status: call.status,
    })
}
