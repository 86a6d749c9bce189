//! http.
use kolosal_server::{error::*, registry::*, server::*};
use poem::test::TestClient;
use serde_json::json;
use std::sync::Arc;

struct L;
impl Loader for L {
    fn estimate(&self, _: &EngineSpec) -> Result<u64> {
        Ok(0)
    }
    fn load(&self, _: &EngineSpec) -> Result<Loaded> {
        Err(Error::internal("x"))
    }
}
#[tokio::test]
async fn smoke() {
    std::fs::write("openapi/openapi.json", openapi_json()).unwrap();
    let registry = Registry::new(Arc::new(L), RegistryConfig::default());
    registry.add(EngineSpec::new("m", "path"), false).await.unwrap();
    let state = Arc::new(AppState::new(registry, Options::default()));
    let client = TestClient::new(App::new(state).build());
    for (method, path, body) in [
        ("GET", "/", ""),
        ("GET", "/v1/models", ""),
        ("GET", "/models/m", ""),
        ("GET", "/v1/models/nope%2Fx", ""),
        ("PUT", "/engines", ""),
        ("OPTIONS", "/v1/engines/x/status", ""),
        ("GET", "/engines", ""),
        ("GET", "/v1/health", ""),
        ("GET", "/status", ""),
        ("HEAD", "/health", ""),
        ("GET", "/nope", ""),
        ("GET", "/v1", ""),
        ("GET", "/v1/", ""),
        ("GET", "//", ""),
        (
            "POST",
            "/v1/chat/completions",
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#,
        ),
        (
            "POST",
            "/chat/completions",
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}], "stream":true,"n":2,"stream_options":{"include_usage":true}}"#,
        ),
        ("POST", "/v1/completions", r#"{"model":"m","prompt":["a","b"]}"#),
        ("POST", "/v1/completions", r#"{"model":"m","prompt":["a","b"],"stream":true}"#),
        ("POST", "/v1/completions", r#"{"model":"m","prompt":["a",5]}"#),
        ("POST", "/v1/completions", r#"{"model":"m","prompt":"a", "foo":null}"#),
        ("POST", "/v1/completions", r#"{"model":"m","prompt":"a", "foo":1}"#),
        ("POST", "/engines", r#"{"engine_id":"a b","model_path":"x"}"#),
        ("DELETE", "/engines/a%20b", ""),
    ] {
        let mut request = client.request(method.parse().unwrap(), path);
        if !body.is_empty() {
            request = request.body(body);
        }
        let response = request.send().await;
        println!("== {method} {path} {} {:?}", response.0.status(), response.0.headers());
        println!(
            "{}",
            response
                .0
                .into_body()
                .into_string()
                .await
                .unwrap()
                .chars()
                .take(900)
                .collect::<String>()
        );
    }
    let _ = json!({});
}
