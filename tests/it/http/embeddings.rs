//! `/v1/embeddings`.

use serde_json::{Value, json};

use super::harness::Server;
use super::model::{CONTEXT, HIDDEN};

/// The vector that the alphabet's hidden states give for a text of letters.
fn vector(text: &str) -> Vec<f64> {
    let mut counts = vec![0.0; HIDDEN];
    text.bytes().for_each(|byte| counts[usize::from(byte - b'a')] += 1.0);
    let length = counts.iter().map(|x| x * x).sum::<f64>().sqrt();
    counts.iter().map(|x| x / length).collect()
}

fn is_near(got: &Value, wanted: &[f64]) -> bool {
    let got: Vec<f64> = serde_json::from_value(got.clone()).expect("numbers");
    got.len() == wanted.len() && got.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6)
}

async fn post(server: &Server, body: &Value) -> Value {
    let reply = server.post("/v1/embeddings", body.to_string()).await;
    assert_eq!(reply.status, 200, "{body}: {}", reply.text);
    reply.json()
}

#[tokio::test]
async fn each_input_gets_a_vector_of_length_one() {
    let server = Server::new();
    server.register("e").await;
    let cases = [
        (json!("aab"), vec!["aab"], 3),
        (json!(["ab", "ccc", "z"]), vec!["ab", "ccc", "z"], 6),
        (json!([97, 98]), vec!["ab"], 2),
        (json!([[97], [98, 98]]), vec!["a", "b"], 3),
    ];
    for (input, texts, tokens) in cases {
        let answer = post(&server, &json!({"model": "e", "input": input, "user": "u"})).await;
        assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("e")));
        assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
        let data = answer["data"].as_array().expect("a list");
        assert_eq!(data.len(), texts.len());
        for (i, (object, text)) in data.iter().zip(texts).enumerate() {
            assert_eq!((&object["object"], &object["index"]), (&json!("embedding"), &json!(i)));
            assert!(is_near(&object["embedding"], &vector(text)), "{text}: {object}");
        }
    }
    let alias = server.post("/embeddings", json!({"model": "e", "input": "a"}).to_string()).await;
    assert_eq!(alias.status, 200);
}

#[tokio::test]
async fn vectors_come_as_base64_and_shortened() {
    let server = Server::new();
    server.load("e").await;
    let request = json!({"model": "e", "input": "a", "dimensions": 1, "encoding_format": "base64"});
    // 1.0 as four bytes, the lowest first.
    assert_eq!(post(&server, &request).await["data"][0]["embedding"], "AACAPw==");
    let request =
        json!({"model": "e", "input": "abz", "dimensions": 2, "encoding_format": "float"});
    let half = 0.5_f64.sqrt();
    assert!(is_near(&post(&server, &request).await["data"][0]["embedding"], &[half, half]));
}

#[tokio::test]
async fn many_inputs_are_answered_in_order() {
    let server = Server::new();
    server.load("e").await;
    let texts: Vec<String> =
        (0..600).map(|i| char::from(b'a' + (i % 26) as u8).to_string().repeat(1 + i % 7)).collect();
    let answer = post(&server, &json!({"model": "e", "input": texts})).await;
    for (i, (object, text)) in
        answer["data"].as_array().expect("a list").iter().zip(&texts).enumerate()
    {
        assert_eq!(object["index"], i);
        assert!(is_near(&object["embedding"], &vector(text)), "{text}");
    }
}

#[tokio::test]
async fn wrong_requests_name_the_field() {
    let server = Server::new();
    server.load("e").await;
    let cases = [
        (json!({"model": "f", "input": "a"}), 404, "model"),
        (json!({"model": "e"}), 400, "input"),
        (json!({"model": "e", "input": 5}), 400, "input"),
        (json!({"model": "e", "input": []}), 400, "input"),
        (json!({"model": "e", "input": ""}), 400, "input[0]"),
        (json!({"model": "e", "input": ["a", ""]}), 400, "input[1]"),
        (json!({"model": "e", "input": [[97], []]}), 400, "input[1]"),
        (json!({"model": "e", "input": [97, 999]}), 400, "input[0]"),
        (json!({"model": "e", "input": ["a", "b".repeat(CONTEXT + 1)]}), 400, "input[1]"),
        (json!({"model": "e", "input": vec!["a"; 2049]}), 400, "input"),
        (json!({"model": "e", "input": "a", "dimensions": 0}), 400, "dimensions"),
        (json!({"model": "e", "input": "a", "dimensions": HIDDEN + 1}), 400, "dimensions"),
        (json!({"model": "e", "input": "a", "encoding_format": "int8"}), 400, "encoding_format"),
    ];
    for (body, status, param) in cases {
        let reply = server.post("/v1/embeddings", body.to_string()).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, error["param"].as_str()), (status, Some(param)), "{error}");
    }
}
