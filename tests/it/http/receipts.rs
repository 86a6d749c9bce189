//! Every request has one end, and one receipt that tells which.

use std::time::Duration;

use kolosal_server::{
    chat::generation::FinishReason,
    error::Kind,
    server::{ApiKeys, OnReceipt, Options, Outcome, Receipt},
};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::socket::{Client, Listening};

/// Digits never end.
const ENDLESS: &str = r#""prompt": "7", "temperature": 0, "max_tokens": 2000"#;

/// A server over a socket, and the receipts of its requests.
struct Desk {
    server: Listening,
    receipts: UnboundedReceiver<Receipt>,
}

impl Desk {
    async fn open(keys: ApiKeys, drain_limit: Duration) -> Self {
        let (sender, receipts) = unbounded_channel();
        let on_receipt = OnReceipt::new(move |receipt| {
            let _ = sender.send(receipt.clone());
        });
        let options = Options { keys, on_receipt, ..Options::default() };
        Self { server: Listening::with(options, drain_limit).await, receipts }
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> Client {
        let mut client = self.server.connect().await;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json");
        client.send(&format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        client
    }

    async fn receipt(&mut self) -> Receipt {
        let waiting = tokio::time::timeout(Duration::from_mins(1), self.receipts.recv());
        waiting.await.expect("in time").expect("a receipt")
    }

    /// The receipt of what was sent; a probe shows that there is no other.
    async fn only(&mut self) -> Receipt {
        let receipt = self.receipt().await;
        assert!(self.server.is_alive().await);
        let probe = self.receipt().await;
        assert_eq!((probe.route.as_str(), probe.outcome), ("/livez", Outcome::Done(None)));
        receipt
    }
}

/// Outcome, engine, dialect, route, tokens of the prompt and of the answer.
fn told(receipt: &Receipt) -> (Outcome, Option<&str>, &str, &str, [u32; 2]) {
    let Receipt { outcome, engine, dialect, route, usage, .. } = receipt;
    let tokens = [usage.prompt_tokens, usage.completion_tokens];
    (*outcome, engine.as_deref(), dialect, route, tokens)
}

/// Path, dialect and route; body; how it ends; engine; tokens of prompt and answer.
type Case =
    ((&'static str, &'static str, &'static str), String, Outcome, Option<&'static str>, [u32; 2]);

fn cases() -> Vec<Case> {
    let done = |reason| Outcome::Done(Some(reason));
    let m = Some("m");
    let text = |more: &str| format!(r#"{{"model": "m", "temperature": 0, {more}}}"#);
    let chat =
        |more: &str| text(&format!(r#""messages": [{{"role": "user", "content": "x"}}]{more}"#));
    let completions = ("/v1/completions", "openai", "/completions");
    let ollama = ("/api/chat", "ollama", "/api/chat");
    vec![
        (completions, text(r#""prompt": "v""#), done(FinishReason::Stop), m, [1, 4]),
        (
            completions,
            text(r#""prompt": "a", "max_tokens": 2, "stream": true"#),
            done(FinishReason::Length),
            m,
            [1, 2],
        ),
        (
            completions,
            text(r#""prompt": ["v", "x"], "n": 2"#),
            done(FinishReason::Stop),
            m,
            [2, 12],
        ),
        (completions, text(r#""prompt": "a#""#), Outcome::Failed(Kind::Internal), m, [2, 0]),
        (
            completions,
            text(r#""prompt": "a#", "stream": true"#),
            Outcome::Failed(Kind::Internal),
            m,
            [2, 0],
        ),
        // Refused before there is an engine, and by the engine.
        (completions, "{".to_owned(), Outcome::Failed(Kind::Invalid), None, [0, 0]),
        (
            completions,
            r#"{"model": "nobody", "prompt": "a"}"#.to_owned(),
            Outcome::Failed(Kind::NotFound),
            None,
            [0, 0],
        ),
        (
            completions,
            text(&format!(r#""prompt": "{}""#, "a".repeat(5000))),
            Outcome::Failed(Kind::Invalid),
            m,
            [0, 0],
        ),
        (
            ("/v1/messages", "anthropic", "/messages"),
            chat(r#", "max_tokens": 3"#),
            done(FinishReason::Length),
            m,
            [0, 3],
        ),
        (ollama, chat(r#", "options": {"num_predict": 3}"#), done(FinishReason::Length), m, [0, 3]),
        (
            ollama,
            text(r#""messages": []"#).replace(r#""temperature": 0, "#, ""),
            Outcome::Done(None),
            m,
            [0, 0],
        ),
        (
            ("/v1/embeddings", "openai", "/embeddings"),
            r#"{"model": "m", "input": ["abc", "d"]}"#.to_owned(),
            Outcome::Done(None),
            m,
            [4, 0],
        ),
        (
            ("/v1/rerank", "openai", "/rerank"),
            r#"{"query": "a", "documents": ["b"]}"#.to_owned(),
            Outcome::Done(None),
            m,
            [2, 0],
        ),
        (
            ("/v1/nowhere", "openai", ""),
            "{}".to_owned(),
            Outcome::Failed(Kind::NotFound),
            None,
            [0, 0],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_answered_has_one_receipt() {
    let mut desk = Desk::open(ApiKeys::default(), Duration::from_secs(30)).await;
    for ((path, dialect, route), body, outcome, engine, [prompt, answer]) in cases() {
        let body =
            if path.starts_with("/api") { body.replace(r#""temperature": 0, "#, "") } else { body };
        let mut client = desk.send("POST", path, &body).await;
        let head = client.until("\r\n\r\n").await;
        if head.contains("chunked") {
            client.until("0\r\n\r\n").await;
        }
        let receipt = desk.only().await;
        let (is, on, by, at, [read, written]) = told(&receipt);
        assert_eq!((is, on, by, at), (outcome, engine, dialect, route), "{path} {body}: {head}");
        assert_eq!(written, answer, "{path} {body}");
        // How long a template makes a chat is not the matter here.
        assert!(read == prompt || (prompt == 0 && engine.is_some()), "{path} {body}: {read}");
        assert!(receipt.identity.address.is_some_and(|address| address.is_loopback()));
        assert!(receipt.identity.tenant != 0 && receipt.identity.key.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_have_one_receipt() {
    let mut desk = Desk::open(ApiKeys::default(), Duration::from_secs(30)).await;
    for stream in [true, false] {
        let body = format!(r#"{{"model": "m", {ENDLESS}, "stream": {stream}}}"#);
        let mut client = desk.send("POST", "/v1/completions", &body).await;
        if stream {
            client.until("data: ").await;
        }
        desk.server.until_running(1).await;
        drop(client);
        let receipt = desk.only().await;
        assert_eq!((receipt.outcome, receipt.engine.as_deref()), (Outcome::Gone, Some("m")));
        assert!(!stream || receipt.usage.completion_tokens > 0);
        desk.server.until_running(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_has_one_receipt() {
    let mut desk = Desk::open(ApiKeys::default(), Duration::from_secs(30)).await;
    let text = json!({"type": "string", "minLength": 1500});
    let schema = json!({"type": "object", "properties": {"a": text}, "required": ["a"]});
    let format = json!({"type": "json_schema", "name": "long", "schema": schema});
    let body = json!({"model": "m", "stream": true, "input": "x", "text": {"format": format}});
    let mut client = desk.send("POST", "/v1/responses", &body.to_string()).await;
    let begun = client.until("response.in_progress").await;
    let at = begun.find("resp_").expect("an id");
    let id: String = begun[at..].chars().take_while(|c| *c != '"').collect();
    let mut other = desk.send("POST", &format!("/v1/responses/{id}/cancel"), "").await;
    let cancelled = other.response().await;
    assert!(cancelled.starts_with("HTTP/1.1 200"), "{cancelled}");
    client.until("0\r\n\r\n").await;
    let mut receipts = [desk.receipt().await, desk.receipt().await];
    receipts.sort_by_key(|receipt| receipt.route.len());
    let [created, cancel] = &receipts;
    assert_eq!(created.outcome, Outcome::Done(Some(FinishReason::Cancelled)));
    assert_eq!((created.outcome.name(), created.route.as_str()), ("cancelled", "/responses"));
    assert_eq!(cancel.outcome, Outcome::Done(None));
    assert_eq!(cancel.route, "/responses/{response_id}/cancel");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_is_the_end_of_what_it_ends() {
    let mut desk = Desk::open(ApiKeys::default(), Duration::from_millis(300)).await;
    let body = format!(r#"{{"model": "m", {ENDLESS}, "stream": true}}"#);
    let mut streaming = desk.send("POST", "/v1/completions", &body).await;
    streaming.until("data: ").await;
    desk.server.stop.send(()).expect("stopped");
    streaming.rest().await;
    let waiting = tokio::time::timeout(Duration::from_mins(1), desk.receipts.recv());
    let receipt = waiting.await.expect("in time").expect("a receipt");
    assert_eq!((receipt.outcome, receipt.outcome.name()), (Outcome::Drained, "shutting_down"));
    desk.server.serving.await.expect("joined").expect("ended well");
    assert_eq!(desk.receipts.recv().await, None, "there is no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_keys_are_told_apart() {
    let mut desk = Desk::open(ApiKeys::new(["k"]), Duration::from_secs(30)).await;
    desk.send("GET", "/v1/models", "").await.response().await;
    let stranger = desk.only().await;
    assert_eq!(stranger.outcome, Outcome::Failed(Kind::Unauthorized));
    assert_eq!((stranger.identity.key, stranger.identity.tenant), (None, 0));
    let mut client = desk.server.connect().await;
    client.send("GET /v1/models HTTP/1.1\r\nHost: h\r\nX-API-Key: k\r\n\r\n").await;
    let models: Value =
        serde_json::from_str(client.response().await.split_once("\r\n\r\n").expect("a body").1)
            .expect("JSON");
    assert_eq!(models["object"], "list");
    let known = desk.only().await;
    assert_eq!(known.outcome, Outcome::Done(None));
    assert_eq!(known.identity.key, Some(known.identity.tenant));
}
