//! The life of the built server: its log may stall or end, signals are heard all the same.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::json;

use crate::program::{ended, kolosal, request};
use crate::tiny::Tiny;

/// More lines than a pipe holds: 64 KiB.
const MANY: usize = 1500;

/// A server whose log nobody has read beyond its first line.
struct Logging {
    child: Child,
    log: Option<BufReader<ChildStderr>>,
    url: String,
    _home: tempfile::TempDir,
}

impl Logging {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("tiny.gguf");
        std::fs::write(&model, Tiny::default().bytes()).unwrap();
        // The log is not read, so the port is chosen here.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = kolosal(home.path());
        command.args(["serve", "--port", &port.to_string(), "--n-ctx", "128"]);
        command.arg(format!("m={}", model.display()));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::with_capacity(64, child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        assert!(line.starts_with("Kolosal Server"), "{line}");
        let url = format!("http://127.0.0.1:{port}");
        Self { child, log: Some(log), url, _home: home }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    fn completes(&self) {
        let ask = json!({"model": "m", "prompt": "ab", "max_tokens": 2});
        let answer = request("POST", &format!("{}/v1/completions", self.url), Some(&ask));
        assert_eq!(answer.0, 200, "{answer:?}");
    }

    /// SIGTERM, and the exit code.
    fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM");
        ended(&mut self.child)
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let mut server = Logging::start();
    server.log = None;
    server.completes();
    server.completes();
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_log_whose_reader_stalls_stops_nothing() {
    let server = Logging::start();
    for _ in 0..MANY {
        assert_eq!(request("GET", &format!("{}/livez", server.url), None).0, 200);
    }
    server.completes();
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn the_server_outlives_its_terminal() {
    let server = Logging::start();
    server.completes();
    server.signal("-HUP");
    server.completes();
    assert_eq!(server.terminate(), Some(0));
}
