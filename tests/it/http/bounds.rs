//! The bounds that the document shows are those that are checked: for each bounded field of each
//! request, the bound is accepted and one step beyond it is a 400 that names the field as the client
//! wrote it.

use kolosal_server::server::openapi_json;
use serde_json::{Value, json};

use super::harness::Server;

/// A value that a field takes, or does not.
struct Case {
    path: String,
    body: Value,
    is_fine: bool,
}

/// Walks the schema of one request.
struct Walk<'a> {
    document: &'a Value,
    route: &'a str,
    cases: Vec<Case>,
}

impl Walk<'_> {
    fn resolve<'v>(&'v self, schema: &'v Value) -> &'v Value {
        let schema = schema
            .pointer("/anyOf/0")
            .filter(|_| schema["anyOf"][1]["type"] == "null")
            .unwrap_or(schema);
        match schema["$ref"].as_str() {
            Some(reference) => &self.document[reference.rsplit('/').next().expect("a name")],
            None => schema,
        }
    }

    /// `put` makes a body of a value of what stands at `path`.
    fn fields(&mut self, schema: &Value, path: &str, put: &dyn Fn(Value) -> Value) {
        let schema = self.resolve(schema).clone();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let put = |value: Value| {
                let mut object = required(&schema, name);
                object[name] = value;
                put(object)
            };
            let field = self.resolve(field).clone();
            self.bounds(&field, &path, &put);
            if field["type"].as_str() == Some("object") {
                self.fields(&field, &path, &put);
            }
        }
    }

    fn bounds(&mut self, field: &Value, path: &str, put: &dyn Fn(Value) -> Value) {
        let (is_whole, route) = (is(field, "integer"), self.route);
        let mut case = |value: Value, is_fine: bool| {
            self.cases.push(Case { path: path.to_owned(), body: put(value), is_fine });
        };
        let number = |x: f64| if is_whole { json!(x as i64) } else { json!(x) };
        for (limit, step) in [("minimum", -1.0), ("maximum", 1.0)] {
            // A bound of what takes -1 for no bound, or 0 for off, is one step from it.
            let Some(bound) = field[limit].as_f64() else { continue };
            let step = if is_whole { step } else { step * 0.01 };
            case(number(bound), true);
            let beyond = bound + step;
            if !(is_whole && beyond == -1.0 && takes_minus_one(path)) {
                case(number(beyond), false);
            }
        }
        let text = |chars: u64| json!("x".repeat(chars as usize));
        if let Some(max) = field["maxLength"].as_u64() {
            case(text(max), true);
            case(text(max + 1), false);
        }
        if let Some(min) = field["minLength"].as_u64().filter(|min| *min > 0) {
            case(text(min), true);
            case(text(min - 1), false);
        }
        let list = |count: u64| json!(vec![item((route, path), &field["items"]); count as usize]);
        if let Some(max) = field["maxItems"].as_u64() {
            // Tools must differ, and that many messages are a long story.
            if field["items"]["$ref"].is_null() {
                case(list(max), true);
            }
            case(list(max + 1), false);
        }
        if let Some(min) = field["minItems"].as_u64().filter(|min| *min > 0) {
            case(list(min - 1), false);
        }
        if let Some(max) = field["maxProperties"].as_u64() {
            let labels = |count: u64| (0..count).map(|i| (i.to_string(), json!("x"))).collect();
            case(labels(max), true);
            case(labels(max + 1), false);
        }
    }
}

fn is(field: &Value, kind: &str) -> bool {
    field["type"] == kind || field["type"][0] == kind
}

/// Bounds that -1 takes away.
fn takes_minus_one(path: &str) -> bool {
    path.contains("max") || path == "dimensions"
}

/// The fields that an object has in any case, but one.
fn required(schema: &Value, but: &str) -> Value {
    let mut object = json!({});
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if name != but {
            let field = &schema["properties"][name];
            let first = field["enum"].as_array().and_then(|words| words.first().cloned());
            object[name] = first.unwrap_or_else(|| "x".into());
        }
    }
    object
}

fn item(place: (&str, &str), items: &Value) -> Value {
    match place {
        (_, "messages") => json!({"role": "user", "content": "x"}),
        (_, "input_extra") => json!({"text": "x"}),
        ("/v1/messages", "tools") => json!({"name": "f", "input_schema": {}}),
        ("/v1/responses", "tools") => json!({"type": "function", "name": "f"}),
        (_, "tools") => json!({"type": "function", "function": {"name": "f"}}),
        _ if is(items, "string") => "x".into(),
        _ => 1.into(),
    }
}

/// What a request of a path has in any case.
fn base(path: &str) -> Value {
    match path {
        "/infill" => json!({"model": "m", "input_prefix": "a", "input_suffix": "b"}),
        "/v1/chat/completions" => {
            let messages = json!([{"role": "user", "content": "a"}]);
            json!({"model": "m", "messages": messages, "logprobs": true})
        }
        "/v1/messages" => {
            let messages = json!([{"role": "user", "content": "a"}]);
            json!({"model": "m", "messages": messages, "max_tokens": 4_000_000})
        }
        "/api/chat" | "/v1/inference/chat/completions" => {
            json!({"model": "m", "messages": [{"role": "user", "content": "a"}]})
        }
        "/v1/score" => json!({"model": "m", "text_1": "a", "text_2": "b"}),
        "/embedding" => json!({"model": "m", "content": "a"}),
        "/completion" | "/v1/completions" | "/v1/inference/completions" | "/api/generate" => {
            json!({"model": "m", "prompt": "a"})
        }
        "/v1/rerank" => json!({"model": "m", "query": "a", "documents": ["a"]}),
        "/v1/responses" | "/v1/embeddings" | "/api/embed" => json!({"model": "m", "input": "a"}),
        _ => panic!("{path} has no body here"),
    }
}

const PATHS: [&str; 15] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/rerank",
    "/infill",
    "/completion",
    "/embedding",
    "/v1/score",
    "/v1/inference/completions",
    "/v1/inference/chat/completions",
    "/api/chat",
    "/api/generate",
    "/api/embed",
];

#[tokio::test]
async fn the_bounds_of_the_document_are_checked() {
    let document: Value = serde_json::from_str(openapi_json()).expect("JSON");
    let schemas = &document["components"]["schemas"];
    // No engine is there: what passes the checks ends with 404.
    let server = Server::new();
    let mut num_cases = 0;
    for path in PATHS {
        let content = &document["paths"][path]["post"]["requestBody"]["content"];
        let mut walk = Walk { document: schemas, route: path, cases: Vec::new() };
        let put = |fields: Value| {
            let mut body = base(path);
            for (name, value) in fields.as_object().expect("an object") {
                // What a schema requires is in the base, unless it is looked at.
                if fields.as_object().is_some_and(|all| all.len() == 1)
                    || body.get(name).is_none()
                    || value != "x"
                {
                    body[name] = value.clone();
                }
            }
            body
        };
        walk.fields(&content["application/json"]["schema"], "", &put);
        assert!(!walk.cases.is_empty(), "{path}");
        num_cases += walk.cases.len();
        for Case { path: field, body, is_fine } in walk.cases {
            let text = body.to_string();
            let shown: String = text.chars().take(200).collect();
            let reply = server.post(path, text).await;
            let named = reply.text.contains(&format!("\"{field}\""))
                || reply.text.contains(&format!("\"{field}:"))
                || reply.text.contains(&format!("\"{field} "));
            if is_fine {
                // Fewest tokens at their bound are more than the most that hold by default.
                let is_taken = reply.status == 404 || reply.text.contains(" exceeds max");
                assert!(is_taken, "{path} {field} at its bound: {} {shown}", reply.text);
            } else {
                let is_refused = reply.status == 400 && named;
                assert!(
                    is_refused,
                    "{path} {field} beyond: {} {} {shown}",
                    reply.status, reply.text
                );
            }
        }
    }
    assert!(num_cases > 400, "{num_cases}");
}
