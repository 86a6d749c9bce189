//! The OpenAPI document: what poem-openapi generates, made true and complete.
//!
//! poem-openapi writes version 3.0; this turns it into 3.1, whose schemas are plain JSON Schema, in
//! which null is a type. Paths get their prefixes and aliases here, as [`front`](super::front) serves
//! them: every operation is reachable with and without `/v1`.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, LazyLock},
};

use poem_openapi::{LicenseObject, OpenApi, OpenApiService};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    AppState, Options,
    anthropic::AnthropicApi,
    examples::request_examples,
    front::RERANK_ALIASES,
    ignored::takes_hints,
    native::{
        EngineApi, HealthApi, InferenceApi, InfillApi, LlamaCompletionApi, LlamaEmbeddingApi,
        ProbeApi, PropsApi, TokenApi,
    },
    ollama::{OllamaApi, OllamaCreateApi, OllamaModelApi, OllamaStoreApi},
    openai::{ChatApi, CompletionApi, ConversationApi, EmbeddingApi, ModelApi, ResponseApi},
    rerank::RerankApi,
    score::ScoreApi,
};
use crate::{
    error::{Error, Result},
    registry::{EngineSpec, Loaded, Loader, Registry, RegistryConfig},
};

const DESCRIPTION: &str = "\
LLM inference with OpenAI's API. Every failure has the body `{\"error\": {message, type, param, code}}`, \
below `/api/` the body `{\"error\": message}`, and below `/v1/messages` the body \
`{\"type\": \"error\", \"error\": {type, message}}`. \
Every answer has the header `X-Request-Id`, taken over from the request if it has one. A parameter is \
implemented or refused by name with status 400, never ignored.";

/// Paths whose main form is without `/v1`, as in the original and in llama-server; all others have it.
const BARE_PATHS: [&str; 9] = [
    "/engines",
    "/engines/{engine_id}",
    "/engines/{engine_id}/status",
    "/engines/{engine_id}/load",
    "/engines/{engine_id}/unload",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/infill",
];

/// Paths without any alias; those below `/api/` have none either.
const LONE_PATHS: [&str; 7] =
    ["/livez", "/readyz", "/completion", "/embedding", "/props", "/slots", "/tokenizer_info"];

/// Fields of answers that may be null, and absent as well.
const SKIPPED: [(&str, &str); 2] = [("ChatCompletionChunk", "usage"), ("Completion", "usage")];

/// All routes of the document.
type Apis =
    (OpenAiApis, AnthropicApi, InferenceApi, TextApis, EngineApi, HealthApi, ProbeApi, OllamaApis);

/// Routes of the OpenAI dialect, and ranking beside its embeddings.
type OpenAiApis =
    (ChatApi, (ResponseApi, ConversationApi), CompletionApi, EmbeddingApi, ModelApi, RankApis);
/// Routes that rank.
type RankApis = (RerankApi, ScoreApi);
/// Routes of llama-server's form.
type TextApis = (TokenApi, InfillApi, LlamaCompletionApi, LlamaEmbeddingApi, PropsApi);
/// Routes of Ollama's dialect.
type OllamaApis = (OllamaApi, OllamaModelApi, OllamaStoreApi, OllamaCreateApi);

/// The service that answers these routes.
pub(crate) fn service(state: &Arc<AppState>) -> OpenApiService<Apis, ()> {
    let apis = (
        (
            ChatApi(Arc::clone(state)),
            (ResponseApi(Arc::clone(state)), ConversationApi(Arc::clone(state))),
            CompletionApi(Arc::clone(state)),
            EmbeddingApi(Arc::clone(state)),
            ModelApi(Arc::clone(state)),
            (RerankApi(Arc::clone(state)), ScoreApi(Arc::clone(state))),
        ),
        AnthropicApi(Arc::clone(state)),
        InferenceApi(Arc::clone(state)),
        (
            TokenApi(Arc::clone(state)),
            InfillApi(Arc::clone(state)),
            LlamaCompletionApi(Arc::clone(state)),
            LlamaEmbeddingApi(Arc::clone(state)),
            PropsApi(Arc::clone(state)),
        ),
        EngineApi(Arc::clone(state)),
        HealthApi(Arc::clone(state)),
        ProbeApi(Arc::clone(state)),
        (
            OllamaApi(Arc::clone(state)),
            OllamaModelApi(Arc::clone(state)),
            OllamaStoreApi(Arc::clone(state)),
            OllamaCreateApi(Arc::clone(state)),
        ),
    );
    described(apis)
}

fn described<T: OpenApi>(apis: T) -> OpenApiService<T, ()> {
    OpenApiService::new(apis, "Kolosal Server", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("MIT OR Apache-2.0").identifier("MIT OR Apache-2.0"))
        .server("/")
}

/// The document as JSON text. The same for every server of this version.
#[must_use]
pub fn openapi_json() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let registry = Registry::new(Arc::new(NoLoader), RegistryConfig::default());
        let state = Arc::new(AppState::new(registry, Options::default()));
        let generated = service(&state).spec();
        let document = serde_json::from_str(&generated).map(finish);
        let text = document.and_then(|document| serde_json::to_string_pretty(&document));
        text.map(|text| text + "\n").unwrap_or_default()
    });
    &DOCUMENT
}

/// The document describes routes, and routes need a registry, which needs a loader.
struct NoLoader;

impl Loader for NoLoader {
    fn estimate(&self, _: &EngineSpec, _: &Path) -> Result<u64> {
        Err(Error::internal("nothing can be loaded here"))
    }

    fn load(&self, _: &EngineSpec, _: &Path, _: &CancellationToken) -> Result<Loaded> {
        Err(Error::internal("nothing can be loaded here"))
    }
}

fn finish(mut document: Value) -> Value {
    document["openapi"] = "3.1.0".into();
    add_examples(&mut document);
    tighten(&mut document);
    if let Some(paths) = document["paths"].as_object_mut() {
        *paths = with_aliases(std::mem::take(paths));
    }
    document["components"]["schemas"]["OllamaErrorBody"] = json!({
        "type": "object",
        "properties": { "error": { "type": "string", "description": "A sentence for a person." } },
        "required": ["error"],
    });
    document["components"]["schemas"]["AnthropicErrorBody"] = anthropic_error();
    document["tags"] = tags();
    document["components"]["securitySchemes"] = json!({
        "bearer": { "type": "http", "scheme": "bearer" },
        "apiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
    });
    // Keys are optional: a server without configured keys takes every request.
    document["security"] = json!([{}, { "bearer": [] }, { "apiKey": [] }]);
    modernise(&mut document);
    document
}

fn anthropic_error() -> Value {
    let kind = json!({ "type": "string", "description": "Such as `invalid_request_error`." });
    let message = json!({ "type": "string", "description": "A sentence for a person." });
    json!({
        "type": "object",
        "properties": {
            "type": { "type": "string", "enum": ["error"] },
            "error": {
                "type": "object",
                "properties": { "type": kind, "message": message },
                "required": ["type", "message"],
            },
        },
        "required": ["type", "error"],
    })
}

/// Says what is done: requests that manage engines have no other fields, answers have all of theirs but
/// those that are left out when there is nothing to say. What is in both is described as in requests.
fn tighten(document: &mut Value) {
    let (mut requests, mut strict) = (BTreeSet::new(), BTreeSet::new());
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for operation in operations.as_object().into_iter().flat_map(Map::values) {
            let schemas = &document["components"]["schemas"];
            reach(&operation["requestBody"], schemas, &mut requests);
            if !takes_hints(path) {
                reach(&operation["requestBody"], schemas, &mut strict);
            }
        }
    }
    let schemas = document["components"]["schemas"].as_object_mut().into_iter().flatten();
    for (name, schema) in schemas {
        let Some(properties) = schema["properties"].as_object() else { continue };
        if requests.contains(name) {
            if strict.contains(name) {
                schema["additionalProperties"] = false.into();
            } else if schema["additionalProperties"] == false
                && let Some(schema) = schema.as_object_mut()
            {
                schema.remove("additionalProperties");
            }
            continue;
        }
        let is_required = |field: &str| {
            schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == field))
        };
        let always = properties.iter().filter(|(field, property)| {
            let is_null = property["nullable"] == true;
            is_required(field) || (is_null && !SKIPPED.contains(&(name, field)))
        });
        let always: Vec<_> = always.map(|(field, _)| field.clone()).collect();
        if !always.is_empty() {
            schema["required"] = always.into();
        }
        // poem-openapi does not say it of entries: the first token of a prompt has no probability.
        if let Some(entries) = schema.pointer_mut("/properties/prompt_logprobs/items") {
            entries["nullable"] = true.into();
        }
    }
}

/// Names of the schemas that a value refers to, directly or not.
fn reach(value: &Value, schemas: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| reach(item, schemas, found)),
        Value::Object(object) => {
            let name = object.get("$ref").and_then(Value::as_str);
            if let Some(name) = name.and_then(|name| name.rsplit('/').next())
                && found.insert(name.to_owned())
            {
                reach(&schemas[name], schemas, found);
            }
            object.values().for_each(|value| reach(value, schemas, found));
        }
        _ => {}
    }
}

fn tags() -> Value {
    json!([
        { "name": "Chat", "description": "Conversations, compatible with OpenAI's API" },
        { "name": "Responses", "description": "Conversations of items that the server may keep, compatible with OpenAI's API" },
        { "name": "Completions", "description": "Plain text continuation, compatible with OpenAI's API" },
        { "name": "Embeddings", "description": "Texts as vectors, compatible with OpenAI's API" },
        { "name": "Messages", "description": "Conversations, compatible with Anthropic's API" },
        { "name": "Models", "description": "What can be asked" },
        { "name": "Tokens", "description": "Text to tokens and back, and conversations to text" },
        { "name": "Llama", "description": "Texts that go on or whose middle is missing, compatible with llama-server's API" },
        { "name": "Ollama", "description": "Ollama's own API; failures are `{\"error\": \"…\"}`" },
        { "name": "Inference", "description": "The original Kolosal Server's own inference routes" },
        { "name": "Engines", "description": "Register, load, unload and remove engines" },
        { "name": "Health", "description": "Whether the server lives and serves" },
        { "name": "Aliases", "description": "Other paths of the same operations" },
    ])
}

fn add_examples(document: &mut Value) {
    for (method, path, example) in request_examples() {
        let body = &mut document["paths"][path][method]["requestBody"]["content"];
        body["application/json"]["example"] = example;
    }
}

/// Gives every path its main form and its aliases.
fn with_aliases(paths: Map<String, Value>) -> Map<String, Value> {
    let mut all = Map::new();
    let mut aliases = Map::new();
    for (path, mut operations) in paths {
        if path.starts_with("/api/") {
            fail_with(&mut operations, "OllamaErrorBody");
        } else if path.starts_with("/messages") {
            fail_with(&mut operations, "AnthropicErrorBody");
        }
        describe_events(&mut operations, path.ends_with("completions"));
        let prefixed = format!("/v1{path}");
        let (main, others) = if LONE_PATHS.contains(&path.as_str()) || path.starts_with("/api/") {
            (path, vec![])
        } else if BARE_PATHS.contains(&path.as_str()) {
            (path, vec![prefixed])
        } else if path == "/health" {
            (prefixed, vec![path, "/status".to_owned()])
        } else if path == "/rerank" {
            let others = RERANK_ALIASES.map(str::to_owned);
            (prefixed, std::iter::once(path).chain(others).collect())
        } else {
            (prefixed, vec![path])
        };
        for (i, alias) in others.into_iter().enumerate() {
            aliases.insert(alias, alias_of(&operations, &main, i));
        }
        all.insert(main, operations);
    }
    all.extend(aliases);
    all
}

/// Failures of a dialect's routes have the dialect's body.
fn fail_with(operations: &mut Value, body: &str) {
    for operation in operations.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let responses = operation["responses"].as_object_mut().into_iter().flatten();
        for (_, response) in responses.filter(|(status, _)| !status.starts_with('2')) {
            response["content"]["application/json"]["schema"] =
                json!({ "$ref": format!("#/components/schemas/{body}") });
        }
    }
}

/// The schema of a stream is that of one event, whose data is JSON text of what the handler says, or
/// of a failure midway. OpenAI's older routes end with a word.
fn describe_events(operations: &mut Value, ends_with_done: bool) {
    for operation in operations.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let failure = operation.pointer("/responses/400/content/application~1json/schema").cloned();
        let schema = operation.pointer_mut("/responses/200/content/text~1event-stream/schema");
        let (Some(failure), Some(schema)) = (failure, schema) else { continue };
        let json =
            |schema| json!({ "contentMediaType": "application/json", "contentSchema": schema });
        let mut data = vec![json(schema.take()), json(failure)];
        if ends_with_done {
            data.push(json!({ "const": "[DONE]" }));
        }
        *schema = json!({
            "type": "object",
            "properties": {
                "event": { "type": "string", "description": "The name of the event, if it has one." },
                "data": { "type": "string", "anyOf": data },
            },
            "required": ["data"],
        });
    }
}

fn alias_of(operations: &Value, main: &str, number: usize) -> Value {
    let mut operations = operations.clone();
    for (method, operation) in operations.as_object_mut().into_iter().flatten() {
        let suffix = if number == 0 { "Alias".to_owned() } else { format!("Alias{}", number + 1) };
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        operation["operationId"] = (id + &suffix).into();
        operation["description"] =
            format!("The same as `{} {main}`.", method.to_uppercase()).into();
        operation["tags"] = json!(["Aliases"]);
    }
    operations
}

/// From OpenAPI 3.0's dialect of JSON Schema to JSON Schema.
fn modernise(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(modernise),
        Value::Object(object) => {
            // poem-openapi wraps a reference to describe it; 3.1 allows words beside a reference.
            if let Some(Value::Array(parts)) = object.remove("allOf")
                && let Some(reference) = parts.iter().find_map(|part| part.get("$ref"))
            {
                object.insert("$ref".to_owned(), reference.clone());
            }
            object.values_mut().for_each(modernise);
            if let Some(names) = object.get("enum").and_then(variant_names) {
                object.insert("x-enum-varnames".to_owned(), names);
            }
            if object.remove("nullable") == Some(Value::Bool(true)) {
                allow_null(object);
            }
            let is_unsigned = object
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|format| format.starts_with("uint"));
            if is_unsigned && !object.contains_key("minimum") {
                object.insert("minimum".to_owned(), 0.into());
            }
            for limit in ["minimum", "maximum"] {
                if let Some(value) = object.get_mut(limit)
                    && let Some(number) = value.as_f64().filter(|number| number.fract() == 0.0)
                {
                    *value = (number as i64).into();
                }
            }
        }
        _ => {}
    }
}

/// Names for the values of an enum where they differ in case alone: generators of clients would give
/// two of them the same.
fn variant_names(values: &Value) -> Option<Value> {
    let values: Vec<_> = values.as_array()?.iter().filter_map(Value::as_str).collect();
    let mut seen = BTreeSet::new();
    let mut has_doubles = false;
    let names = values.iter().map(|value| {
        let is_new = seen.insert(value.to_uppercase());
        has_doubles |= !is_new;
        if is_new { (*value).to_owned() } else { format!("{value}_{}", seen.len()) }
    });
    let names: Vec<String> = names.collect();
    has_doubles.then(|| names.into())
}

/// Adds null to what a schema allows.
fn allow_null(object: &mut Map<String, Value>) {
    if object.contains_key("enum") || !object.contains_key("type") {
        let description = object.remove("description");
        let inner = Value::Object(std::mem::take(object));
        if let Some(description) = description {
            object.insert("description".to_owned(), description);
        }
        object.insert("anyOf".to_owned(), json!([inner, { "type": "null" }]));
    } else if let Some(kind) = object.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    }
}
