//! Connections at their limits: who leaves, who says nothing, who sends too much.

use std::time::Duration;

use kolosal_server::server::{BodyLimits, ConnectionLimits, Options};
use serde_json::json;

use super::socket::{Client, Listening};

const DRAIN: Duration = Duration::from_secs(5);

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn limited(connections: ConnectionLimits) -> Listening {
    Listening::with(Options { connections, ..Options::default() }, DRAIN).await
}

/// A digit follows itself, for ever: the sequence ends only because its client does.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_before_a_whole_answer_frees_the_sequence_in_every_dialect() {
    let said = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "7"}]);
    let cases = [
        ("/v1/completions", json!({"model": "m", "prompt": "7", "max_tokens": 2000})),
        ("/v1/completions", json!({"model": "m", "prompt": "7", "max_tokens": 2000, "n": 3})),
        (
            "/v1/chat/completions",
            json!({"model": "m", "messages": said, "max_tokens": 2000,
            "add_generation_prompt": false, "continue_final_message": true}),
        ),
        ("/v1/messages", json!({"model": "m", "messages": said, "max_tokens": 1900})),
        (
            "/api/generate",
            json!({"model": "m", "prompt": "7", "raw": true, "stream": false,
            "options": {"num_predict": 2000}}),
        ),
        ("/v1/inference/completions", json!({"model": "m", "prompt": "7", "maxNewTokens": 2000})),
    ];
    let server = Listening::with(Options::default(), DRAIN).await;
    for (path, body) in cases {
        let count = body["n"].as_u64().unwrap_or(1) as usize;
        let mut client = server.connect().await;
        client.send(&post(path, &body.to_string())).await;
        server.until_running(count).await;
        let before = server.completion_tokens();
        drop(client);
        server.until_running(0).await;
        let more = server.completion_tokens() - before;
        assert!(more < 1000, "{path} went on for {more} tokens");
    }
    assert!(server.is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room_for_new_ones() {
    let limits = ConnectionLimits { max: 4, max_per_address: 4, ..ConnectionLimits::default() };
    let server = limited(limits).await;
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(server.connect().await);
    }
    assert!(server.is_alive().await, "a newcomer is served");
    // Those that went are closed, and those in use are not.
    assert_eq!(silent.remove(0).rest().await, "");
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut client = server.connect().await;
        client.send(&post("/v1/completions", ENDLESS)).await;
        client.until("data: ").await;
        busy.push(client);
    }
    let refused = server.connect().await.rest().await;
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("max_per_address"),
        "{refused}"
    );
    assert!(refused.contains("all 4 connections"), "{refused}");
    for client in &mut busy {
        client.until("data: ").await;
    }
}

const ENDLESS: &str = r#"{"model": "m", "prompt": "7", "max_tokens": 2000, "stream": true}"#;

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_do_not_end_and_connections_without_requests_are_closed() {
    let second = Duration::from_secs(1);
    let limits = ConnectionLimits {
        header_timeout: second,
        idle_timeout: second,
        ..ConnectionLimits::default()
    };
    let server = limited(limits).await;
    let mut slow = server.connect().await;
    slow.send("GET /livez HTTP/1.1\r\nHost: h\r\nX-a: ").await;
    let mut kept = server.connect().await;
    kept.send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(kept.response().await.starts_with("HTTP/1.1 200"));
    // An answer that takes longer than both is none of theirs.
    let mut working = server.connect().await;
    working.send(&post("/v1/completions", ENDLESS)).await;
    working.until("data: ").await;
    assert_eq!(slow.rest().await, "");
    assert_eq!(kept.rest().await, "");
    working.until("data: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_that_stall_leave_room_for_small_ones() {
    let body = BodyLimits { max_bytes_in_flight: 4 << 20, ..BodyLimits::default() };
    let server = Listening::with(Options { body, ..Options::default() }, DRAIN).await;
    let large = format!(r#"{{"model": "m", "prompt": "{}"#, "a".repeat(2 << 20));
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client
            .send("POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: 9000000\r\n\r\n")
            .await;
        // What the server no longer reads need not be sent.
        let _refused =
            tokio::io::AsyncWriteExt::write_all(&mut client.stream, large.as_bytes()).await;
        stalled.push(client);
    }
    // Any of them may be the one for which there is no room.
    let responses = stalled.iter_mut().map(|client| Box::pin(client.response()));
    let (refused, ..) = futures_util::future::select_all(responses).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("4194304 bytes"), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: "), "{refused}");
    let mut small = server.connect().await;
    small
        .send(&post("/v1/completions", r#"{"model": "m", "prompt": "v", "temperature": 0}"#))
        .await;
    assert!(small.response().await.contains("wxyz"));
}

#[tokio::test(flavor = "multi_thread")]
async fn early_answers_arrive_and_say_whether_the_connection_goes_on() {
    let body = BodyLimits { max_bytes: 1 << 20, ..BodyLimits::default() };
    let server = Listening::with(Options { body, ..Options::default() }, DRAIN).await;
    // A short body is taken off the wire, and the connection goes on.
    let mut client = server.connect().await;
    for (path, status) in [("/nope", "404"), ("/livez", "405"), ("/v1/chat/completions", "400")] {
        client.send(&post(path, "{}")).await;
        let answer = client.response().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(!answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    // A long one is refused while it is still being sent, and the client sees why.
    for chunked in [false, true] {
        let client = server.connect().await;
        let answer = oversized(client, chunked).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
}

/// Sends 8 MiB and then reads.
async fn oversized(mut client: Client, chunked: bool) -> String {
    let length = if chunked { "transfer-encoding: chunked" } else { "content-length: 8388608" };
    client.send(&format!("POST /v1/completions HTTP/1.1\r\nhost: h\r\n{length}\r\n\r\n")).await;
    let piece = "a".repeat(1 << 16);
    for _ in 0..128 {
        if chunked {
            client.send(&format!("10000\r\n{piece}\r\n")).await;
        } else {
            client.send(&piece).await;
        }
    }
    if chunked {
        client.send("0\r\n\r\n").await;
    }
    client.rest().await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_http2_connection_are_few() {
    let server = limited(ConnectionLimits { max_streams: 7, ..ConnectionLimits::default() }).await;
    let mut client = server.connect().await;
    // The preface and empty SETTINGS; the server's own settings come first.
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let wanted = [0, 3, 0, 0, 0, 7];
    let settings = client.frame().await;
    assert_eq!(settings[3], 4, "SETTINGS come first");
    assert!(settings[9..].chunks(6).any(|setting| setting == wanted), "{settings:?}");
}
