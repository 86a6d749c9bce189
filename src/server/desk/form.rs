//! The form of answers: what each parameter that asks for one has, as a grammar.

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    chat::{generation::Shape, grammar::Grammar},
    error::{Error, Result},
    param::Place,
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

/// What a parameter of this path asks for.
pub(crate) fn shape(path: &str, grammar: Grammar) -> Shape {
    Shape { grammar, field: path.to_owned(), strict: true }
}

impl ResponseFormat {
    pub(super) fn into_shape(self, place: &Place) -> Result<Option<Shape>> {
        let strict = self.json_schema.as_ref().and_then(|wire| wire.strict).unwrap_or(false);
        let wanted =
            |place: &Place, grammar| Ok(Some(Shape { strict, ..shape(&place.path, grammar) }));
        let schema = place.at("json_schema");
        if self.json_schema.is_some() && self.r#type != ResponseFormatKind::JsonSchema {
            return Err(schema.error("only with the type json_schema"));
        }
        if self.schema.is_some() && self.r#type != ResponseFormatKind::JsonObject {
            return Err(place.at("schema").error("only with the type json_object"));
        }
        match (self.r#type, self.json_schema, self.schema) {
            (ResponseFormatKind::Text, _, _) => Ok(None),
            (ResponseFormatKind::JsonObject, _, None) => wanted(place, Grammar::JsonObject),
            (ResponseFormatKind::JsonObject, _, Some(schema)) => {
                wanted(&place.at("schema"), Grammar::JsonSchema(Value::Object(schema.0)))
            }
            (ResponseFormatKind::JsonSchema, Some(wire), _) => {
                check_name(&schema.at("name").path, &wire.name)?;
                let grammar = Grammar::JsonSchema(Value::Object(wire.schema.0));
                wanted(&schema.at("schema"), grammar)
            }
            (ResponseFormatKind::JsonSchema, None, _) => {
                let error = schema.error("this required field is missing");
                Err(error.with_code("missing_required_parameter"))
            }
        }
    }
}

impl GrammarField {
    pub(super) fn into_shape(self, place: &Place) -> Result<Shape> {
        let TypedGrammar { r#type, value } = match self {
            Self::Text(text) => return Ok(shape(&place.path, by_look(text))),
            Self::Typed(typed) => typed,
        };
        let here = place.at("value");
        let grammar = match (r#type, value) {
            (GrammarKind::JsonSchema, value) => Grammar::JsonSchema(schema_of(value, &here)?),
            (GrammarKind::Gbnf, Value::String(text)) => Grammar::Gbnf(text),
            (GrammarKind::Lark, Value::String(text)) => Grammar::Lark(text),
            (GrammarKind::Regex, Value::String(text)) => Grammar::Regex(text),
            _ => return Err(here.error("a string is expected")),
        };
        Ok(shape(&here.path, grammar))
    }
}

impl StructuredOutputs {
    pub(super) fn into_shape(self, place: &Place) -> Result<Shape> {
        let json = self.json.map(|json| schema_of(json, &place.at("json"))).transpose()?;
        let given = [
            ("json", json.map(Grammar::JsonSchema)),
            ("regex", self.regex.map(Grammar::Regex)),
            ("choice", self.choice.map(Grammar::Choice)),
            ("grammar", self.grammar.map(by_look)),
            ("json_object", (self.json_object == Some(true)).then_some(Grammar::JsonObject)),
        ];
        let mut given = given.into_iter().filter_map(|(name, grammar)| {
            grammar.map(|grammar| shape(&place.at(name).path, grammar))
        });
        match (given.next(), given.next()) {
            (Some(only), None) => Ok(only),
            (Some(first), Some(second)) => {
                let text = format!("{} and {} exclude each other", first.field, second.field);
                Err(Error::invalid(second.field, text))
            }
            (None, _) => {
                Err(place.error("one of json, regex, choice, grammar and json_object is required"))
            }
        }
    }
}

/// GBNF has its own sign for a definition.
pub(crate) fn by_look(text: String) -> Grammar {
    if text.contains("::=") { Grammar::Gbnf(text) } else { Grammar::Lark(text) }
}

/// A schema, or the text of one.
pub(crate) fn schema_of(value: Value, place: &Place) -> Result<Value> {
    let value = match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| place.error(format!("not the text of a JSON schema: {error}")))?,
        value => value,
    };
    if value.is_object() || value.is_boolean() {
        return Ok(value);
    }
    Err(place.error("a JSON schema is an object"))
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
