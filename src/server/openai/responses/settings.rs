//! How an answer is to be: thoughts, form and extent.

use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::input::missing;
use crate::{
    chat::{generation::Shape, grammar::Grammar},
    error::{Error, Result},
    server::{
        desk::{ResponseFormatKind, check_name},
        schema::{FreeObject, optional_object, wire_enum},
    },
};

wire_enum! {
    /// What is done with a conversation that is too long.
    pub(crate) enum Truncation {
        /// It is refused.
        Disabled = "disabled",
        /// Its oldest turns are left out.
        Auto = "auto",
    }
}

wire_enum! {
    /// What an answer includes beside the usual.
    pub(crate) enum Include {
        /// The log-probabilities of the text's tokens.
        Logprobs = "message.output_text.logprobs",
        /// Nothing more: what the model thinks is in `content`, readable.
        EncryptedReasoning = "reasoning.encrypted_content",
    }
}

wire_enum! {
    /// Whether thoughts are summed up: they are shown as they are.
    pub(crate) enum ReasoningSummary {
        Auto = "auto",
    }
}

wire_enum! {
    /// How many words an answer has. Handed to the chat template, which may know it.
    pub(crate) enum Verbosity {
        Low = "low",
        Medium = "medium",
        High = "high",
    }
}

wire_enum! {
    /// How much a reasoning model thinks. Handed to the chat template, which may know it.
    pub(crate) enum ReasoningEffort {
        None = "none",
        Minimal = "minimal",
        Low = "low",
        Medium = "medium",
        High = "high",
        Xhigh = "xhigh",
        Max = "max",
    }
}

/// How a reasoning model thinks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponsesReasoningOptions {
    #[oai(nullable)]
    pub effort: Option<ReasoningEffort>,
    /// Null in answers: thoughts are not summed up.
    #[oai(nullable)]
    pub summary: Option<ReasoningSummary>,
}

/// The form of an answer's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponsesFormat {
    pub r#type: ResponseFormatKind,
    /// Of a `json_schema`: 1 to 64 letters, digits, `_`, `-` and `.`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a `json_schema`; the model is not shown it.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Of a `json_schema`. A keyword that cannot be enforced is refused by name.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<FreeObject>,
    /// Of a `json_schema`, which is enforced in either case.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

impl Default for ResponsesFormat {
    fn default() -> Self {
        let kind = ResponseFormatKind::Text;
        Self { r#type: kind, name: None, description: None, schema: None, strict: None }
    }
}

/// What the answer's text is like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponsesText {
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub format: Option<ResponsesFormat>,
    #[oai(nullable)]
    pub verbosity: Option<Verbosity>,
}

impl ResponsesFormat {
    /// The form that is asked for.
    pub(super) fn shape(&self) -> Result<Option<Shape>> {
        const FIELD: &str = "text.format";
        let fields = [
            ("name", self.name.is_some()),
            ("description", self.description.is_some()),
            ("schema", self.schema.is_some()),
            ("strict", self.strict.is_some()),
        ];
        let extra = fields.iter().find(|(_, is_given)| *is_given);
        let strict = self.strict.unwrap_or(false);
        let shape =
            |field: &str, grammar| Ok(Some(Shape { grammar, field: field.to_owned(), strict }));
        match (self.r#type, extra) {
            (ResponseFormatKind::JsonSchema, _) => {
                let name = self.name.as_ref().ok_or_else(|| missing("text.format.name"))?;
                check_name("text.format.name", name)?;
                let field = "text.format.schema";
                let schema = self.schema.clone().ok_or_else(|| missing(field))?;
                shape(field, Grammar::JsonSchema(Value::Object(schema.0)))
            }
            (_, Some((name, _))) => {
                let field = format!("{FIELD}.{name}");
                let text = format!("{field}: only with the type json_schema");
                Err(Error::invalid(field, text))
            }
            (ResponseFormatKind::Text, None) => Ok(None),
            (ResponseFormatKind::JsonObject, None) => shape(FIELD, Grammar::JsonObject),
        }
    }
}
