//! Over real sockets: what a test client without them cannot see.

use std::{sync::Arc, time::Duration};

use kolosal_server::{
    registry::{EngineSpec, Registry, RegistryConfig},
    server::{App, AppState, Options, run},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::{harness::wait_for, model::AlphabetLoader};

const BODY: &str = r#"{"model": "m", "prompt": "v", "temperature": 0}"#;
const ENDLESS: &str =
    r#"{"model": "m", "prompt": "7", "temperature": 0, "max_tokens": 2000, "stream": true}"#;

/// A server that listens.
pub(super) struct Listening {
    pub(super) address: std::net::SocketAddr,
    registry: Arc<Registry>,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) serving: JoinHandle<std::io::Result<()>>,
}

impl Listening {
    async fn start(drain_limit: Duration) -> Self {
        Self::with(Options::default(), drain_limit).await
    }

    pub(super) async fn with(options: Options, drain_limit: Duration) -> Self {
        let registry = Registry::new(Arc::new(AlphabetLoader), RegistryConfig::default());
        registry.add(EngineSpec::new("m", "alphabet"), true).await.expect("loaded");
        let app = App::new(Arc::new(AppState::new(Arc::clone(&registry), options)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(run(listener, app, shutdown, drain_limit));
        Self { address, registry, stop, serving }
    }

    pub(super) async fn connect(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.expect("connected"),
            buffer: vec![],
        }
    }

    pub(super) async fn is_alive(&self) -> bool {
        let mut client = self.connect().await;
        client.send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").await;
        client.response().await.starts_with("HTTP/1.1 200")
    }

    pub(super) fn completion_tokens(&self) -> u64 {
        let status = self.registry.status("m").expect("registered");
        status.stats.map_or(0, |stats| stats.generated_tokens)
    }

    pub(super) async fn until_running(&self, count: usize) {
        let is_so = |status: &kolosal_server::registry::Status| {
            status.stats.as_ref().is_some_and(|stats| stats.running == count)
        };
        wait_for(&self.registry, "m", is_so).await;
    }
}

/// A client that speaks bytes.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("sent");
        self.stream.flush().await.expect("sent");
    }

    /// Reads until the buffer has `text`; what follows it stays in the buffer.
    pub(super) async fn until(&mut self, text: &str) -> String {
        loop {
            let found =
                self.buffer.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let rest = self.buffer.split_off(at + text.len());
                let read = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8_lossy(&read).into_owned();
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).await.expect("readable");
            assert!(count > 0, "closed: {}", String::from_utf8_lossy(&self.buffer));
            self.buffer.extend_from_slice(&bytes[..count]);
        }
    }

    /// One response with a `content-length`.
    pub(super) async fn response(&mut self) -> String {
        let head = self.until("\r\n\r\n").await;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse::<usize>().expect("a number"));
        while self.buffer.len() < length {
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).await.expect("readable");
            assert!(count > 0, "closed");
            self.buffer.extend_from_slice(&bytes[..count]);
        }
        let rest = self.buffer.split_off(length);
        let body = std::mem::replace(&mut self.buffer, rest);
        head + &String::from_utf8_lossy(&body)
    }

    /// One frame of HTTP/2, its head included.
    pub(super) async fn frame(&mut self) -> Vec<u8> {
        let mut frame = vec![0; 9];
        self.stream.read_exact(&mut frame).await.expect("a head");
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
        frame.resize(9 + length, 0);
        self.stream.read_exact(&mut frame[9..]).await.expect("a payload");
        frame
    }

    /// All that comes until the server closes.
    pub(super) async fn rest(mut self) -> String {
        // A reset is a close as well.
        let _ = self.stream.read_to_end(&mut self.buffer).await;
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

fn post(body: &str) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_pieces_and_connections_kept() {
    let server = Listening::start(Duration::from_secs(5)).await;
    let mut client = server.connect().await;
    client.stream.set_nodelay(true).expect("set");
    let request = post(BODY);
    for piece in [&request[..10], &request[10..60], &request[60..]] {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    let first = client.response().await;
    assert!(first.starts_with("HTTP/1.1 200 OK\r\n") && first.contains("\"wxyz\""), "{first}");
    // The same connection again, and twice at once.
    client.send(&request).await;
    assert!(client.response().await.contains("\"wxyz\""));
    client.send(&format!("{request}GET /nope HTTP/1.1\r\nhost: h\r\n\r\n{request}")).await;
    assert!(client.response().await.contains("\"wxyz\""));
    assert!(client.response().await.starts_with("HTTP/1.1 404"));
    assert!(client.response().await.contains("\"wxyz\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_and_expectations() {
    let server = Listening::start(Duration::from_secs(5)).await;
    let mut client = server.connect().await;
    let head = "POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(&format!("{head}{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len())).await;
    assert!(client.response().await.contains("\"wxyz\""));
    let (head, body) =
        post(BODY).split_once("\r\n\r\n").map(|(h, b)| (h.to_owned(), b.to_owned())).expect("two");
    client.send(&format!("{head}\r\nexpect: 100-continue\r\n\r\n")).await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send(&body).await;
    assert!(client.response().await.contains("\"wxyz\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_does_no_harm() {
    let server = Listening::start(Duration::from_secs(5)).await;
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = (0..10_000).map(|i| format!("X-{i}: y\r\n")).collect::<Vec<_>>().concat();
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n");
    let two = "POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    let negative = "POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n";
    for bad in ["nonsense\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET\r\n\r\n", &long, &many, two, negative]
    {
        let mut client = server.connect().await;
        // The server may close before all is sent.
        let _ = client.stream.write_all(bad.as_bytes()).await;
        let _ = client.stream.shutdown().await;
        let reply = client.rest().await;
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{reply}");
    }
    for odd in [
        "CONNECT example.com:80 HTTP/1.1\r\nHost: h\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        let mut client = server.connect().await;
        client.send(odd).await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 4"), "{head}");
    }
    // A body shorter than announced, and then silence for ever.
    let mut client = server.connect().await;
    client.send("POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{").await;
    drop(client);
    assert!(server.is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_sequence() {
    let server = Listening::start(Duration::from_secs(5)).await;
    let mut streaming = server.connect().await;
    streaming.send(&post(ENDLESS)).await;
    streaming.until("data: ").await;
    server.until_running(1).await;
    drop(streaming);
    server.until_running(0).await;
    let mut waiting = server.connect().await;
    waiting.send(&post(&ENDLESS.replace("true", "false"))).await;
    server.until_running(1).await;
    drop(waiting);
    server.until_running(0).await;
    assert!(server.is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let server = Listening::start(Duration::from_secs(5)).await;
    let mut lazy = server.connect().await;
    let body = ENDLESS.replace("2000", "500");
    lazy.send(&post(&body)).await;
    server.until_running(1).await;
    let mut other = server.connect().await;
    other.send(&post(BODY)).await;
    assert!(other.response().await.contains("\"wxyz\""));
    server.until_running(0).await;
    let all = lazy.until("data: [DONE]\n\n").await;
    assert_eq!(all.matches("\"text\":\"7\"").count(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_short_answers_finish() {
    let server = Listening::start(Duration::from_secs(30)).await;
    let mut idle = server.connect().await;
    idle.send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").await;
    idle.response().await;
    let mut client = server.connect().await;
    client.send(&post(&ENDLESS.replace("2000", "300"))).await;
    client.until("data: ").await;
    server.stop.send(()).expect("stopped");
    let rest = client.rest().await;
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]\n\n"));
    assert!(rest.ends_with("0\r\n\r\n"), "the body is complete");
    assert_eq!(idle.rest().await, "", "idle connections are closed");
    server.serving.await.expect("joined").expect("ended well");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_long_answers_with_an_error() {
    let server = Listening::start(Duration::from_millis(300)).await;
    let mut client = server.connect().await;
    client.send(&post(ENDLESS)).await;
    client.until("data: ").await;
    server.stop.send(()).expect("stopped");
    let rest = client.rest().await;
    assert!(
        rest.contains("\"code\":\"shutting_down\"") && rest.contains("data: [DONE]\n\n"),
        "{rest}"
    );
    server.serving.await.expect("joined").expect("ended well");
}
