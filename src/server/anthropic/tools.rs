//! Tools on the wire: definitions, and which of them may or must be called.

use poem_openapi::Object;
use serde::Deserialize;
use serde_json::{Value, json};

use super::content::CacheControl;
use crate::{
    chat::generation::{Callable, ToolUse},
    error::{Error, Result},
    server::{
        common::MAX_TOOLS,
        desk::check_name,
        schema::{FreeObject, wire_enum},
    },
};

wire_enum! {
    /// Who runs a tool: the client. Tools that Anthropic's servers run are not supported.
    pub(crate) enum AnthropicToolKind {
        Custom = "custom",
    }
}

/// A tool that the model may call.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicTool {
    #[oai(nullable)]
    pub r#type: Option<AnthropicToolKind>,
    /// 1 to 64 letters, digits, `_`, `-` and `.`.
    pub name: String,
    #[oai(nullable)]
    pub description: Option<String>,
    /// JSON schema of the arguments, an object.
    pub input_schema: FreeObject,
    /// Arguments follow the schema in every call. Where a call is required, they do anyway.
    #[oai(nullable)]
    pub strict: Option<bool>,
    #[oai(nullable)]
    #[serde(default)]
    pub cache_control: Option<CacheControl>,
    /// Arguments that show how the tool is used; the chat template sees them beside the schema.
    #[oai(nullable)]
    pub input_examples: Option<Vec<FreeObject>>,
}

wire_enum! {
    /// Whether tools are called.
    pub(crate) enum AnthropicChoiceKind {
        /// The model decides.
        Auto = "auto",
        /// The answer is a call.
        Any = "any",
        /// The answer is a call of the named tool.
        Tool = "tool",
        /// The model is not shown the tools.
        None = "none",
    }
}

/// Whether and which tools are called.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicToolChoice {
    pub r#type: AnthropicChoiceKind,
    /// Required when `type` is `tool`.
    #[oai(nullable)]
    pub name: Option<String>,
    /// An answer holds one call at most.
    #[oai(nullable)]
    pub disable_parallel_tool_use: Option<bool>,
}

/// The tools that a request may call; `None` if it may call none.
pub(super) fn tool_use(
    tools: Option<Vec<AnthropicTool>>,
    choice: Option<AnthropicToolChoice>,
) -> Result<Option<ToolUse>> {
    use AnthropicChoiceKind::{Any, Auto, None as Never, Tool};

    let tools = tools.unwrap_or_default();
    if tools.len() > MAX_TOOLS {
        let text = format!("tools: {} tools, limit {MAX_TOOLS}", tools.len());
        return Err(Error::invalid("tools", text));
    }
    let mut callable = callables(&tools)?;
    let definitions: Value = tools.into_iter().map(AnthropicTool::into_definition).collect();
    let choice = choice.unwrap_or(AnthropicToolChoice {
        r#type: Auto,
        name: None,
        disable_parallel_tool_use: None,
    });
    match (choice.r#type, choice.name) {
        (Tool, None) => {
            let field = "tool_choice.name";
            let text = format!("{field}: this required field is missing");
            return Err(Error::invalid(field, text).with_code("missing_required_parameter"));
        }
        (Tool, Some(name)) => {
            callable.retain(|tool| tool.name == name);
            if callable.is_empty() {
                let shown: String = name.chars().take(64).collect();
                let text = format!("tool_choice.name: no tool is called {shown}");
                return Err(Error::invalid("tool_choice.name", text));
            }
        }
        (_, Some(_)) => {
            let text = "tool_choice.name: only with the type tool";
            return Err(Error::invalid("tool_choice.name", text));
        }
        (Any, None) if callable.is_empty() => {
            return Err(Error::invalid("tool_choice", "tool_choice: there are no tools to choose"));
        }
        (Never, None) => return Ok(None),
        (Any | Auto, None) => {}
    }
    if callable.is_empty() {
        return Ok(None);
    }
    // A tool that is named is called once.
    let is_single = choice.r#type == Tool || choice.disable_parallel_tool_use == Some(true);
    Ok(Some(ToolUse {
        definitions,
        callable,
        must_call: matches!(choice.r#type, Any | Tool),
        parallel: !is_single,
    }))
}

impl AnthropicTool {
    /// As chat templates know it.
    fn into_definition(self) -> Value {
        let mut function = json!({ "name": self.name });
        if let Some(description) = self.description {
            function["description"] = description.into();
        }
        let mut parameters = self.input_schema.0;
        if let Some(examples) = self.input_examples.filter(|examples| !examples.is_empty()) {
            let examples = examples.into_iter().map(|example| Value::Object(example.0)).collect();
            parameters.insert("examples".to_owned(), examples);
        }
        function["parameters"] = Value::Object(parameters);
        json!({ "type": "function", "function": function })
    }
}

fn callables(tools: &[AnthropicTool]) -> Result<Vec<Callable>> {
    let mut all: Vec<Callable> = Vec::with_capacity(tools.len());
    for (i, tool) in tools.iter().enumerate() {
        let name = format!("tools[{i}].name");
        check_name(&name, &tool.name)?;
        if all.iter().any(|other| other.name == tool.name) {
            let text = format!("{name}: another tool is called {} too", tool.name);
            return Err(Error::invalid(name, text));
        }
        let field = format!("tools[{i}].input_schema");
        if tool.input_schema.0.get("type").is_some_and(|kind| kind != "object") {
            let text = format!("{field}: the arguments of a tool are an object");
            return Err(Error::invalid(field, text));
        }
        all.push(Callable {
            name: tool.name.clone(),
            parameters: Value::Object(tool.input_schema.0.clone()),
            strict: tool.strict.unwrap_or(false),
            field,
            loose: false,
        });
    }
    Ok(all)
}
