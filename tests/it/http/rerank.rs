//! `/v1/rerank` by embeddings; cross-encoders are in [`crate::safetensors`].

use serde_json::{Value, json};

use super::harness::Server;
use super::model::CONTEXT;

async fn post(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{body}: {}", reply.text);
    reply.json()
}

#[tokio::test]
async fn documents_come_in_order() {
    let server = Server::new();
    server.load("e").await;
    let mut body =
        json!({"model": "e", "query": "aab", "documents": ["zz", {"text": "ab"}, "aabb"]});
    for path in ["/v1/rerank", "/rerank", "/v2/rerank", "/reranking", "/v1/reranking"] {
        let answer = post(&server, path, &body).await;
        assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("e")));
        // Three for the query, and two, two and four.
        assert_eq!(answer["usage"], json!({"prompt_tokens": 11, "total_tokens": 11}));
        let results = answer["results"].as_array().expect("a list");
        let order: Vec<_> = results.iter().map(|result| result["index"].as_u64()).collect();
        assert_eq!(order, [Some(1), Some(2), Some(0)]);
        let scores: Vec<f64> =
            results.iter().filter_map(|result| result["relevance_score"].as_f64()).collect();
        // The cosine of (2, 1) and (1, 1).
        let wanted = 3.0 / (5f64.sqrt() * 2f64.sqrt());
        assert!((scores[0] - wanted).abs() < 1e-6 && scores[2].abs() < 1e-6, "{scores:?}");
        assert!(results[0].get("document").is_none());
    }
    body["top_n"] = 1.into();
    body["return_documents"] = true.into();
    let results = post(&server, "/v1/rerank", &body).await["results"].clone();
    assert_eq!(results[0]["document"], json!({"text": "ab"}));
    assert_eq!(results.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn texts_are_answered_by_a_list() {
    let server = Server::new();
    server.load("e").await;
    // The only engine need not be named.
    let body = json!({"query": "a", "texts": ["b", "a"], "return_text": true, "raw_scores": true});
    let answer = post(&server, "/rerank", &body).await;
    let wanted = json!([
        {"index": 1, "score": 1.0, "text": "a"},
        {"index": 0, "score": 0.0, "text": "b"},
    ]);
    assert_eq!(answer, wanted);
    let long = "a".repeat(CONTEXT + 1);
    let body = json!({"query": "a", "texts": [long], "truncate": true});
    assert_eq!(post(&server, "/rerank", &body).await[0]["score"], 1.0);
}

#[tokio::test]
async fn wrong_requests_name_the_field() {
    let server = Server::new();
    server.load("e").await;
    let long = "b".repeat(CONTEXT + 1);
    let cases = [
        (json!({"model": "f", "query": "a", "documents": ["a"]}), 404, "model"),
        (json!({"model": "e", "documents": ["a"]}), 400, "query"),
        (json!({"model": "e", "query": "", "documents": ["a"]}), 400, "query"),
        (json!({"model": "e", "query": long, "documents": ["a"]}), 400, "query"),
        (json!({"model": "e", "query": "a"}), 400, "documents"),
        (json!({"model": "e", "query": "a", "documents": []}), 400, "documents"),
        (json!({"model": "e", "query": "a", "documents": ["a", ""]}), 400, "documents[1]"),
        (json!({"model": "e", "query": "a", "documents": ["a", long]}), 400, "documents[1]"),
        (json!({"model": "e", "query": "a", "documents": ["a", 5]}), 400, "documents[1]"),
        (json!({"model": "e", "query": "a", "documents": [{"image": "x"}]}), 400, "documents[0]"),
        (json!({"model": "e", "query": "a", "documents": vec!["a"; 2048]}), 400, "documents"),
        (json!({"model": "e", "query": "a", "texts": ["a", long]}), 400, "texts[1]"),
        (json!({"model": "e", "query": "a", "documents": ["a"], "texts": ["a"]}), 400, "texts"),
        (json!({"model": "e", "query": "a", "documents": ["a"], "top_n": 0}), 400, "top_n"),
        (
            json!({"model": "e", "query": "a", "documents": ["a"], "rank_fields": []}),
            400,
            "rank_fields",
        ),
    ];
    for (body, status, param) in cases {
        let reply = server.post("/v1/rerank", body.to_string()).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, error["param"].as_str()), (status, Some(param)), "{error}");
    }
}
