//! Requests of the original server's own inference routes, and their translation.

use std::sync::Arc;

use poem_openapi::Object;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    chat::{
        ChatInput,
        generation::{GenerationRequest, OutputRules, PromptInput, Shape, ToolUse},
        grammar::Grammar,
    },
    error::{Error, Result},
    server::{
        openai::{
            Message, ResponseFormat, StructuredFields, Tool, ToolChoice, ToolFields, ToolMode,
            conversation, within,
        },
        schema::{objects, optional_object, wire_type},
    },
};

/// What the original's engine did where a request said nothing.
const MAX_NEW_TOKENS: u32 = 128;
const TOP_P: f64 = 0.5;
const RANDOM_SEED: i64 = 42;

/// A JSON schema, or its text.
#[derive(Clone, Debug, serde::Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SchemaOrText(Value);

wire_type!(SchemaOrText, "schema_or_text", {
    use poem_openapi::registry::MetaSchema;

    let one_of = vec![String::schema_ref(), crate::server::schema::FreeObject::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

/// A prompt to continue. Of parameters that are not listed here, those that decide what an answer
/// is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[oai(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct InferenceCompletionRequest {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    pub prompt: String,
    /// Send the answer in pieces, as server-sent events.
    #[oai(nullable)]
    pub streaming: Option<bool>,
    /// 128 if absent, or as many as fit.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub max_new_tokens: Option<u32>,
    /// The model may not stop before it has generated so many tokens.
    #[oai(nullable)]
    pub min_length: Option<u32>,
    /// 1 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "2")))]
    pub temperature: Option<f64>,
    /// 0.5 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub top_p: Option<f64>,
    /// 42 if absent.
    #[oai(nullable, validator(minimum(value = "0")))]
    pub random_seed: Option<i64>,
    /// GBNF, or Lark if it has no `::=`.
    #[oai(nullable)]
    pub grammar: Option<String>,
    /// A JSON schema of the answer, or its text.
    #[oai(nullable)]
    pub json_schema: Option<SchemaOrText>,
    /// Clients write no files here: must be absent, null or empty.
    #[oai(nullable, validator(max_length = 0))]
    pub kv_cache_file_path: Option<String>,
    /// Sequences are not chosen by clients: must be absent, null or -1.
    #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "-1")))]
    pub seq_id: Option<i32>,
}

/// A conversation to answer. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[oai(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct InferenceChatRequest {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// The conversation so far, oldest message first.
    #[oai(validator(min_items = 1, max_items = 8192))]
    #[serde(deserialize_with = "objects")]
    pub messages: Vec<Message>,
    /// Send the answer in pieces, as server-sent events.
    #[oai(nullable)]
    pub streaming: Option<bool>,
    /// 128 if absent, or as many as fit.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub max_new_tokens: Option<u32>,
    /// The model may not stop before it has generated so many tokens.
    #[oai(nullable)]
    pub min_length: Option<u32>,
    /// 1 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "2")))]
    pub temperature: Option<f64>,
    /// 0.5 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub top_p: Option<f64>,
    /// 42 if absent.
    #[oai(nullable, validator(minimum(value = "0")))]
    pub random_seed: Option<i64>,
    /// Tools that the model may call, as the JSON text of OpenAI's list.
    #[oai(nullable)]
    pub tools: Option<String>,
    /// `auto`, also if absent, `none` or `required`.
    #[oai(nullable)]
    pub tool_choice: Option<ToolMode>,
    /// GBNF, or Lark if it has no `::=`.
    #[oai(nullable)]
    pub grammar: Option<String>,
    /// A JSON schema of the answer, or its text.
    #[oai(nullable)]
    pub json_schema: Option<SchemaOrText>,
    /// The form of the answer, as OpenAI has it.
    #[oai(nullable, rename = "response_format")]
    #[serde(default, rename = "response_format", deserialize_with = "optional_object")]
    pub response_format: Option<ResponseFormat>,
    /// Clients write no files here: must be absent, null or empty.
    #[oai(nullable, validator(max_length = 0))]
    pub kv_cache_file_path: Option<String>,
    /// Sequences are not chosen by clients: must be absent, null or -1.
    #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "-1")))]
    pub seq_id: Option<i32>,
}

/// What both requests have.
struct Parameters {
    max_new_tokens: Option<u32>,
    min_length: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    random_seed: Option<i64>,
    kv_cache_file_path: Option<String>,
    seq_id: Option<i32>,
}

impl Parameters {
    fn into_generation(self, prompt: PromptInput, rules: OutputRules) -> Result<GenerationRequest> {
        if self.kv_cache_file_path.is_some_and(|path| !path.is_empty()) {
            let text = "kvCacheFilePath: clients cannot name files of the server; prefixes are \
                        cached without";
            return Err(Error::invalid("kvCacheFilePath", text));
        }
        if let Some(id) = self.seq_id.filter(|id| *id != -1) {
            let text = format!("seqId must be absent or -1, is {id}: the server chooses");
            return Err(Error::invalid("seqId", text));
        }
        if self.max_new_tokens == Some(0) {
            let text = "maxNewTokens must be 1 or more, is 0";
            return Err(Error::invalid("maxNewTokens", text));
        }
        let seed = self.random_seed.unwrap_or(RANDOM_SEED);
        let Ok(seed) = u64::try_from(seed) else {
            let text = format!("randomSeed must be 0 or more, is {seed}");
            return Err(Error::invalid("randomSeed", text));
        };
        let mut request = GenerationRequest {
            max_tokens: self.max_new_tokens,
            default_max_tokens: Some(MAX_NEW_TOKENS),
            min_tokens: self.min_length.unwrap_or(0),
            seed: Some(seed),
            rules: Some(Arc::new(rules)),
            ..GenerationRequest::new(prompt)
        };
        let temperature = within("temperature", self.temperature.unwrap_or(1.0), 0.0..=2.0)?;
        let top_p = within("topP", self.top_p.unwrap_or(TOP_P), 0.0..=1.0)?;
        request.sampling.temperature = temperature as f32;
        request.sampling.top_p = top_p as f32;
        Ok(request)
    }
}

impl InferenceCompletionRequest {
    /// Checks everything that can be checked without the model.
    pub(super) fn into_generation(self) -> Result<GenerationRequest> {
        let shape = shape(self.grammar, self.json_schema, None)?;
        Parameters {
            max_new_tokens: self.max_new_tokens,
            min_length: self.min_length,
            temperature: self.temperature,
            top_p: self.top_p,
            random_seed: self.random_seed,
            kv_cache_file_path: self.kv_cache_file_path,
            seq_id: self.seq_id,
        }
        .into_generation(PromptInput::Text(self.prompt), OutputRules { shape, tools: None })
    }
}

impl InferenceChatRequest {
    /// Checks everything that can be checked without the model.
    pub(super) fn into_generation(self) -> Result<GenerationRequest> {
        let shape = shape(self.grammar, self.json_schema, self.response_format)?;
        let tools = tool_use(self.tools.as_deref(), self.tool_choice)?;
        let input = conversation(self.messages, None, None)?;
        let shown = tools.as_ref().map(|tools| tools.definitions.clone());
        let input = ChatInput { tools: shown, ..input };
        Parameters {
            max_new_tokens: self.max_new_tokens,
            min_length: self.min_length,
            temperature: self.temperature,
            top_p: self.top_p,
            random_seed: self.random_seed,
            kv_cache_file_path: self.kv_cache_file_path,
            seq_id: self.seq_id,
        }
        .into_generation(PromptInput::Chat(input), OutputRules { shape, tools })
    }
}

/// The tools of a text; an empty one has none.
fn tool_use(text: Option<&str>, choice: Option<ToolMode>) -> Result<Option<ToolUse>> {
    let tools = match text.filter(|text| !text.trim().is_empty()) {
        None => None,
        Some(text) => Some(serde_json::from_str::<Vec<Tool>>(text).map_err(|error| {
            Error::invalid("tools", format!("tools: not the JSON text of a list of tools: {error}"))
        })?),
    };
    let tool_choice = choice.map(ToolChoice::Mode);
    ToolFields { tools, tool_choice, parallel_tool_calls: None }.into_use()
}

/// The one form that is asked for; empty texts ask for none.
fn shape(
    grammar: Option<String>,
    schema: Option<SchemaOrText>,
    format: Option<ResponseFormat>,
) -> Result<Option<Shape>> {
    let grammar = grammar.filter(|text| !text.trim().is_empty()).map(|text| {
        let is_gbnf = text.contains("::=");
        let grammar = if is_gbnf { Grammar::Gbnf(text) } else { Grammar::Lark(text) };
        Shape { grammar, field: "grammar".to_owned(), strict: true }
    });
    let schema = match schema.map(|schema| schema.0) {
        None => None,
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => Some(serde_json::from_str(&text).map_err(|error| {
            Error::invalid("jsonSchema", format!("jsonSchema: not JSON text: {error}"))
        })?),
        Some(schema @ Value::Object(_)) => Some(schema),
        Some(_) => {
            let text = "jsonSchema: a schema or its text is expected";
            return Err(Error::invalid("jsonSchema", text));
        }
    };
    let schema = schema.map(|schema| Shape {
        grammar: Grammar::JsonSchema(schema),
        field: "jsonSchema".to_owned(),
        strict: true,
    });
    let format = StructuredFields { response_format: format, ..StructuredFields::default() };
    let mut shapes = [grammar, schema, format.into_shape()?].into_iter().flatten();
    match (shapes.next(), shapes.next()) {
        (Some(first), Some(second)) => {
            let text = format!("{} and {} exclude each other", first.field, second.field);
            Err(Error::invalid(second.field, text))
        }
        (shape, _) => Ok(shape),
    }
}
