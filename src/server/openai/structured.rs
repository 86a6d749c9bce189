//! Structured output on the wire: every field that asks for a form of the answer, as one grammar.

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    chat::{generation::Shape, grammar::Grammar},
    error::{Error, Result},
    server::schema::{FreeObject, optional_object, wire_enum, wire_type},
};

/// Characters of a schema's name.
const MAX_NAME: usize = 64;

wire_enum! {
    /// The form of an answer.
    pub(crate) enum ResponseFormatKind {
        Text = "text",
        JsonObject = "json_object",
        JsonSchema = "json_schema",
    }
}

wire_enum! {
    /// The language of a grammar.
    pub(crate) enum GrammarKind {
        Gbnf = "gbnf",
        Lark = "lark",
        Regex = "regex",
        JsonSchema = "json_schema",
    }
}

/// The form of the answer.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponseFormat {
    pub r#type: ResponseFormatKind,
    /// Required when `type` is `json_schema`.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub json_schema: Option<JsonSchema>,
    /// With `json_object`: a schema of the object, as other servers take it.
    #[oai(nullable)]
    pub schema: Option<FreeObject>,
}

/// A schema that the answer follows.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct JsonSchema {
    /// 1 to 64 letters, digits, `_` and `-`.
    pub name: String,
    /// The model is not shown it.
    #[oai(nullable)]
    pub description: Option<String>,
    /// A JSON schema. A keyword that cannot be enforced is refused by name.
    pub schema: FreeObject,
    /// Without it, what of the schema cannot be enforced is left out and told (`x-kolosal-ignored`).
    #[oai(nullable)]
    pub strict: Option<bool>,
}

/// A grammar in a named language.
#[derive(Clone, Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct TypedGrammar {
    pub r#type: GrammarKind,
    /// The grammar's text; for `json_schema` the schema.
    pub value: Value,
}

/// A grammar's text (GBNF, or Lark if it has no `::=`), or a grammar in a named language.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum GrammarField {
    Text(String),
    Typed(TypedGrammar),
}

wire_type!(
    GrammarField,
    "grammar",
    {
        MetaSchema {
            one_of: vec![String::schema_ref(), TypedGrammar::schema_ref()],
            ..MetaSchema::ANY
        }
    },
    TypedGrammar
);

impl<'de> Deserialize<'de> for GrammarField {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            object @ Value::Object(_) => {
                serde_json::from_value(object).map(Self::Typed).map_err(D::Error::custom)
            }
            _ => Err(D::Error::custom("expected a string or an object with type and value")),
        }
    }
}

/// Structured output as vLLM takes it: exactly one of these.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema, or its text.
    #[oai(nullable)]
    pub json: Option<Value>,
    #[oai(nullable)]
    pub regex: Option<String>,
    #[oai(nullable)]
    pub choice: Option<Vec<String>>,
    /// GBNF, or Lark if it has no `::=`.
    #[oai(nullable)]
    pub grammar: Option<String>,
    /// Any JSON object.
    #[oai(nullable)]
    pub json_object: Option<bool>,
}

/// All fields of a request that ask for a form.
#[derive(Clone, Debug, Default)]
pub(crate) struct StructuredFields {
    pub response_format: Option<ResponseFormat>,
    pub grammar: Option<GrammarField>,
    pub guided_json: Option<Value>,
    pub guided_regex: Option<String>,
    pub guided_choice: Option<Vec<String>>,
    pub guided_grammar: Option<String>,
    pub structured_outputs: Option<StructuredOutputs>,
}

impl StructuredFields {
    /// The one form that is asked for.
    pub(crate) fn into_shape(self) -> Result<Option<Shape>> {
        let shape = |field: &str, grammar| Shape { grammar, field: field.to_owned(), strict: true };
        let schema =
            |field: &str, value| Ok(shape(field, Grammar::JsonSchema(schema(field, value)?)));
        let found: [Option<Result<Shape>>; 6] = [
            self.grammar.map(|grammar| match grammar {
                GrammarField::Text(text) => Ok(shape("grammar", by_look(text))),
                GrammarField::Typed(typed) => typed.into_shape(),
            }),
            self.guided_json.map(|value| schema("guided_json", value)),
            self.guided_regex.map(|regex| Ok(shape("guided_regex", Grammar::Regex(regex)))),
            self.guided_choice.map(|texts| Ok(shape("guided_choice", Grammar::Choice(texts)))),
            self.guided_grammar.map(|text| Ok(shape("guided_grammar", by_look(text)))),
            self.structured_outputs.map(StructuredOutputs::into_shape),
        ];
        let format = match self.response_format {
            Some(format) => format.into_shape()?,
            None => None,
        };
        let mut chosen = format;
        for found in found.into_iter().flatten() {
            let found = found?;
            if let Some(first) = &chosen {
                let text = format!("{} and {} exclude each other", first.field, found.field);
                return Err(Error::invalid(found.field, text));
            }
            chosen = Some(found);
        }
        Ok(chosen)
    }
}

impl ResponseFormat {
    fn into_shape(self) -> Result<Option<Shape>> {
        const SCHEMA: &str = "response_format.json_schema";
        let strict = self.json_schema.as_ref().and_then(|wire| wire.strict).unwrap_or(false);
        let shape =
            |field: &str, grammar| Ok(Some(Shape { grammar, field: field.to_owned(), strict }));
        if self.json_schema.is_some() && self.r#type != ResponseFormatKind::JsonSchema {
            let text = format!("{SCHEMA}: only with the type json_schema");
            return Err(Error::invalid(SCHEMA, text));
        }
        if self.schema.is_some() && self.r#type != ResponseFormatKind::JsonObject {
            let text = "response_format.schema: only with the type json_object";
            return Err(Error::invalid("response_format.schema", text));
        }
        match (self.r#type, self.json_schema, self.schema) {
            (ResponseFormatKind::Text, _, _) => Ok(None),
            (ResponseFormatKind::JsonObject, _, None) => {
                shape("response_format", Grammar::JsonObject)
            }
            (ResponseFormatKind::JsonObject, _, Some(schema)) => {
                shape("response_format.schema", Grammar::JsonSchema(Value::Object(schema.0)))
            }
            (ResponseFormatKind::JsonSchema, Some(wire), _) => {
                check_name(&format!("{SCHEMA}.name"), &wire.name)?;
                let grammar = Grammar::JsonSchema(Value::Object(wire.schema.0));
                shape(&format!("{SCHEMA}.schema"), grammar)
            }
            (ResponseFormatKind::JsonSchema, None, _) => {
                let text = format!("{SCHEMA}: this required field is missing");
                Err(Error::invalid(SCHEMA, text).with_code("missing_required_parameter"))
            }
        }
    }
}

impl TypedGrammar {
    fn into_shape(self) -> Result<Shape> {
        let field = "grammar.value".to_owned();
        let grammar = match (self.r#type, self.value) {
            (GrammarKind::JsonSchema, value) => Grammar::JsonSchema(schema(&field, value)?),
            (GrammarKind::Gbnf, Value::String(text)) => Grammar::Gbnf(text),
            (GrammarKind::Lark, Value::String(text)) => Grammar::Lark(text),
            (GrammarKind::Regex, Value::String(text)) => Grammar::Regex(text),
            _ => return Err(Error::invalid(&field, format!("{field}: a string is expected"))),
        };
        Ok(Shape { grammar, field, strict: true })
    }
}

impl StructuredOutputs {
    fn into_shape(self) -> Result<Shape> {
        let mut given = Vec::new();
        let path = |name: &str| format!("structured_outputs.{name}");
        if let Some(json) = self.json {
            let field = path("json");
            given.push((Grammar::JsonSchema(schema(&field, json)?), field));
        }
        given.extend(self.regex.map(|regex| (Grammar::Regex(regex), path("regex"))));
        given.extend(self.choice.map(|choice| (Grammar::Choice(choice), path("choice"))));
        given.extend(self.grammar.map(|text| (by_look(text), path("grammar"))));
        if self.json_object == Some(true) {
            given.push((Grammar::JsonObject, path("json_object")));
        }
        match (given.pop(), given.pop()) {
            (Some((grammar, field)), None) => Ok(Shape { grammar, field, strict: true }),
            (Some((_, field)), Some((_, other))) => {
                let text = format!("{other} and {field} exclude each other");
                Err(Error::invalid(field, text))
            }
            (None, _) => {
                let text = "structured_outputs: one of json, regex, choice, grammar and json_object \
                            is required";
                Err(Error::invalid("structured_outputs", text))
            }
        }
    }
}

/// GBNF has its own sign for a definition.
fn by_look(text: String) -> Grammar {
    if text.contains("::=") { Grammar::Gbnf(text) } else { Grammar::Lark(text) }
}

/// A schema, or the text of one.
fn schema(field: &str, value: Value) -> Result<Value> {
    let value = match value {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| {
            Error::invalid(field, format!("{field}: not the text of a JSON schema: {error}"))
        })?,
        value => value,
    };
    if value.is_object() || value.is_boolean() {
        return Ok(value);
    }
    Err(Error::invalid(field, format!("{field}: a JSON schema is an object")))
}

/// Names that clients give to schemas and functions.
pub(crate) fn check_name(field: &str, name: &str) -> Result<()> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_fine) {
        return Ok(());
    }
    let text = format!(
        "{field}: a name has 1 to {MAX_NAME} letters, digits, '_', '-' and '.', this one has {} \
         characters",
        name.chars().count()
    );
    Err(Error::invalid(field, text))
}
