//! The hub against a local web server that misbehaves.
#![allow(clippy::unwrap_used)]

pub(crate) mod package;
mod part;
mod reference;
pub(crate) mod server;
mod tls;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kolosal_kernels::quant::GgmlType;
use kolosal_server::error::Kind;
use kolosal_server::hub::{Hub, HubConfig, HubError, NoProgress, Reference, Token};
use kolosal_server::model;
use kolosal_server::model::gguf::{Access, Writer};
use sha2::{Digest, Sha256};

use server::{Reply, Server};

/// A valid model of a little over `len` bytes.
pub(crate) fn model_file(len: usize, seed: u8) -> Vec<u8> {
    let rows = len / 32;
    let bytes: Vec<u8> = (0..rows * 32).map(|i| (i / 7) as u8 ^ seed).collect();
    let mut writer = Writer::new();
    writer.set("general.architecture", "test");
    writer.tensor("t", &[rows, 8], GgmlType::F32, bytes).unwrap();
    writer.to_bytes()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn config(dir: &Path) -> HubConfig {
    HubConfig {
        allow_private_addresses: true,
        retry_backoff: Duration::from_millis(1),
        pip_command: vec!["/nonexistent/pip".into()],
        ..HubConfig::new(dir.join("models"))
    }
}

fn hub(dir: &Path) -> Hub {
    Hub::new(config(dir)).unwrap()
}

fn hub_at(dir: &Path, server: &Server) -> Hub {
    let endpoint = format!("http://{}", server.address);
    let config = HubConfig { endpoint, allow_private_addresses: false, ..config(dir) };
    Hub::new(HubConfig { token: Some(Token::new("hf_secret")), ..config }).unwrap()
}

/// All files below `dir`, without the locks.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.ends_with(".locks") => {}
            path if path.is_dir() => files.extend(files_in(&path)),
            path => files.push(path),
        }
    }
    files
}

#[tokio::test]
async fn a_download_is_stored_listed_found_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let body = model_file(100_000, 0);
    let (content, len) = (body.clone(), body.len() as u64);
    let server = Server::start(move |r, _| Reply::file(r, &content, "\"1\"")).await;
    let (hub, reference) = (hub(dir.path()), server.url("x/m.gguf"));
    assert_eq!(hub.resolve(&reference), None);
    let path = hub.fetch(&reference, &NoProgress).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), body);
    assert_eq!(hub.fetch(&reference, &NoProgress).await.unwrap(), path);
    assert_eq!(server.seen().len(), 1, "the second fetch needs no network");
    let offline = Hub::new(HubConfig { offline: true, ..config(dir.path()) }).unwrap();
    assert_eq!(offline.resolve(&reference), Some(path.clone()));
    let listed = offline.list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].bytes, &listed[0].files[0].sha256), (len, &sha256(&body)));
    let removed = offline.remove(&reference.to_string()).unwrap();
    assert_eq!(removed.path, path);
    assert_eq!(files_in(dir.path()), Vec::<PathBuf>::new());
    assert!(matches!(offline.remove("nothing"), Err(HubError::NotFound(_))));
    let error = offline.fetch(&reference, &NoProgress).await.unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let body = model_file(400_000, 0);
    let content = body.clone();
    let server = Server::start(move |r, n| {
        let reply = Reply::file(r, &content, "\"1\"");
        if n < 3 { reply.cut(100_000) } else { reply }
    })
    .await;
    let path = hub(dir.path()).fetch(&server.url("m.gguf"), &NoProgress).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[1].header("if-range"), "\"1\"");
    assert_eq!(seen[3].header("range"), "bytes=300000-");
}

#[tokio::test]
async fn a_killed_download_is_resumed_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let body = model_file(1_500_000, 0);
    let content = body.clone();
    let server = Server::start(move |r, n| {
        let mut reply = Reply::file(r, &content, "\"1\"");
        if n == 0 {
            (reply.cut, reply.hang) = (Some(1_000_000), true);
        }
        reply
    })
    .await;
    let reference = server.url("m.gguf");
    let part_has = |bytes: u64| {
        let part =
            files_in(dir.path()).into_iter().find(|p| p.extension() == Some("part".as_ref()));
        part.is_some_and(|part| fs::metadata(part).is_ok_and(|m| m.len() >= bytes))
    };
    let first = hub(dir.path());
    tokio::select! {
        result = first.fetch(&reference, &NoProgress) => panic!("the server hangs: {result:?}"),
        () = async { while !part_has(500_000) { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(first.resolve(&reference), None, "a part is no model");
    assert!(first.list().is_empty());
    let path = hub(dir.path()).fetch(&reference, &NoProgress).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    let range = server.seen()[1].header("range").to_owned();
    let start: u64 = range.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    // What was noted last, which is behind what was written.
    assert!((1..=1_000_000).contains(&start), "{range}");
    assert!(!part_has(0), "no part stays behind");
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_begun_anew() {
    for honest in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (model_file(300_000, 1), model_file(300_000, 2));
        let expected = new.clone();
        let server = Server::start(move |r, n| match n {
            0 => Reply::file(r, &old, "\"old\"").cut(200_000),
            // A server that ignores If-Range sends the rest of another file.
            1 if !honest => {
                let mut blind = r.clone();
                blind.headers.remove("if-range");
                Reply::file(&blind, &new, "\"new\"")
            }
            _ => Reply::file(r, &new, "\"new\""),
        })
        .await;
        let path = hub(dir.path()).fetch(&server.url("m.gguf"), &NoProgress).await.unwrap();
        assert_eq!(fs::read(path).unwrap(), expected, "honest: {honest}");
    }
}

#[tokio::test]
async fn without_a_validator_nothing_is_resumed_across_runs() {
    let dir = tempfile::tempdir().unwrap();
    let body = model_file(100_000, 3);
    let content = body.clone();
    let server = Server::start(move |r, n| {
        let mut reply = Reply::file(r, &content, "W/\"weak\"");
        if n < 6 {
            reply.cut = Some(10_000);
        }
        reply
    })
    .await;
    let (hub, reference) = (hub(dir.path()), server.url("m.gguf"));
    hub.fetch(&reference, &NoProgress).await.unwrap_err();
    let path = hub.fetch(&reference, &NoProgress).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    assert_eq!(server.seen()[6].header("range"), "");
}

#[tokio::test]
async fn refusals_and_lies_of_the_server_are_told_apart() {
    type Check = fn(&HubError) -> bool;
    let cases: Vec<(&str, Reply, usize, Check)> = vec![
        ("404", Reply::status(404), 1, |e| matches!(e, HubError::NotFound(_))),
        ("401", Reply::status(401), 1, |e| matches!(e, HubError::Denied { status: 401, .. })),
        ("403", Reply::status(403), 1, |e| matches!(e, HubError::Denied { status: 403, .. })),
        ("400", Reply::status(400), 1, |e| matches!(e, HubError::Failed { .. })),
        ("500", Reply::status(500), 6, |e| matches!(e, HubError::Unreachable { .. })),
        ("429", Reply::status(429).with("retry-after", "0"), 6, |e| {
            matches!(e, HubError::Unreachable { .. })
        }),
        ("a page", Reply::ok("<!DOCTYPE html>"), 1, |e| matches!(e, HubError::Corrupt { .. })),
        ("nothing", Reply::ok(""), 1, |e| matches!(e, HubError::Corrupt { .. })),
        ("always short", Reply::ok(model_file(1000, 0)).cut(500), 6, |e| {
            matches!(e, HubError::Interrupted { received: 500, .. })
        }),
        ("compressed", Reply::ok("x").with("content-encoding", "br"), 1, |e| {
            matches!(e, HubError::Failed { .. })
        }),
        ("too large", Reply::ok(model_file(300_000, 0)), 1, |e| {
            matches!(e, HubError::TooLarge { limit: 200_000, .. })
        }),
        (
            "too large without saying",
            Reply { unsized_body: true, ..Reply::ok(model_file(300_000, 0)) },
            1,
            |e| matches!(e, HubError::TooLarge { limit: 200_000, .. }),
        ),
        ("redirects for ever", Reply::status(302).with("location", "/m.gguf"), 10, |e| {
            matches!(e, HubError::Refused { .. })
        }),
    ];
    for (name, reply, requests, check) in cases {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(move |_, _| reply.clone()).await;
        let config = HubConfig { file_bytes_max: 200_000, ..config(dir.path()) };
        let hub = Hub::new(config).unwrap();
        let reference = server.url("m.gguf");
        let error = hub.fetch(&reference, &NoProgress).await.unwrap_err();
        assert!(check(&error), "{name}: {error:?}");
        assert_eq!(server.seen().len(), requests, "{name}");
        assert_eq!(hub.resolve(&reference), None, "{name}");
    }
}

#[tokio::test]
async fn a_passing_failure_is_waited_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|r, n| match n {
        0 => Reply::status(503),
        1 => Reply::status(429).with("retry-after", "0"),
        _ => Reply::file(r, &model_file(1000, 0), "\"1\""),
    })
    .await;
    hub(dir.path()).fetch(&server.url("m.gguf"), &NoProgress).await.unwrap();
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn two_fetches_of_one_file_download_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let body = model_file(500_000, 0);
    let server = Server::start(move |r, _| Reply::file(r, &body, "\"1\"")).await;
    let (a, b, reference) = (hub(dir.path()), hub(dir.path()), server.url("m.gguf"));
    let (a, b) = tokio::join!(a.fetch(&reference, &NoProgress), b.fetch(&reference, &NoProgress));
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(server.seen().len(), 1);
}

/// A hub with one repository, `o/r`, whose listing says what `edit` makes of the truth.
async fn repository(
    files: Vec<(&'static str, Vec<u8>)>,
    edit: impl Fn(&str, &mut serde_json::Value) + Send + Sync + 'static,
) -> Server {
    const COMMIT: &str = "0123456789012345678901234567890123456789";
    Server::start(move |request, _| {
        let path = request.path.as_str();
        if path == "/api/models/o/r/revision/main?blobs=true" {
            let siblings = files.iter().map(|(name, body)| {
                let mut sibling = serde_json::json!({
                    "rfilename": name, "size": body.len(),
                    "lfs": {"sha256": sha256(body), "size": body.len(), "pointerSize": 1},
                });
                edit(name, &mut sibling);
                sibling
            });
            let siblings: Vec<_> = siblings.collect();
            let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings });
            return Reply::ok(listing.to_string());
        }
        let found = path.strip_prefix(&format!("/o/r/resolve/{COMMIT}/"));
        match files.iter().find(|(name, _)| Some(*name) == found) {
            Some((_, body)) => Reply::file(request, body, "\"1\""),
            None => Reply::status(404),
        }
    })
    .await
}

#[tokio::test]
async fn a_repository_gives_the_quantisation_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let files = vec![
        ("README.md", b"x".to_vec()),
        ("m-Q4_K_M.gguf", model_file(1000, 4)),
        ("m-Q8_0.gguf", model_file(2000, 8)),
    ];
    let server = repository(files, |_, _| {}).await;
    let hub = hub_at(dir.path(), &server);
    for (text, expected) in [
        ("hf:o/r", model_file(1000, 4)),
        ("hf:o/r:q8_0", model_file(2000, 8)),
        ("hf:o/r/m-Q4_K_M.gguf", model_file(1000, 4)),
    ] {
        let reference = Reference::parse(text).unwrap();
        let path = hub.fetch(&reference, &NoProgress).await.unwrap();
        assert_eq!(fs::read(path).unwrap(), expected, "{text}");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 5, "the third is the file of the first");
    assert!(seen.iter().all(|r| r.header("authorization") == "Bearer hf_secret"));
    assert_eq!(hub.list().len(), 2);
    let missing = Reference::parse("hf:o/r:Q2_K").unwrap();
    let error = hub.fetch(&missing, &NoProgress).await.unwrap_err().to_string();
    assert!(error.contains("there are: m-Q4_K_M.gguf, m-Q8_0.gguf"), "{error}");
}

#[tokio::test]
async fn a_split_model_comes_whole() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
    let files = vec![(names[1], model_file(2000, 2)), (names[0], model_file(1000, 1))];
    let server = repository(files, |_, _| {}).await;
    let hub = hub_at(dir.path(), &server);
    let reference = Reference::parse("hf:o/r").unwrap();
    let path = hub.fetch(&reference, &NoProgress).await.unwrap();
    assert!(path.ends_with("q/m-00001-of-00002.gguf"));
    assert!(path.with_file_name("m-00002-of-00002.gguf").is_file());
    assert_eq!(hub.list()[0].files.len(), 2);
    fs::remove_file(path.with_file_name("m-00002-of-00002.gguf")).unwrap();
    assert_eq!(hub.resolve(&reference), None, "half a model is none");
    hub.fetch(&reference, &NoProgress).await.unwrap();
    hub.remove("hf:o/r").unwrap();
    assert_eq!(files_in(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_the_listing_promised_must_arrive() {
    type Edit = fn(&str, &mut serde_json::Value);
    let cases: [(&str, Edit, &str); 3] = [
        ("checksum", |_, s| s["lfs"]["sha256"] = "0".repeat(64).into(), "its sha256 is"),
        ("size", |_, s| s["lfs"]["size"] = 7.into(), "bytes are offered, 7 expected"),
        ("traversal", |_, s| s["rfilename"] = "../../m.gguf".into(), "there is no .gguf file"),
    ];
    for (name, edit, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let server = repository(vec![("m.gguf", model_file(1000, 0))], edit).await;
        let hub = hub_at(dir.path(), &server);
        let reference = Reference::parse("hf:o/r").unwrap();
        let error = hub.fetch(&reference, &NoProgress).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(files_in(dir.path()), Vec::<PathBuf>::new(), "{name}: all of it is deleted");
    }
}

#[test]
fn the_cache_of_the_hubs_own_tools_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let commit = "0123456789012345678901234567890123456789";
    let repo = dir.path().join("cache/models--o--r");
    let snapshot = repo.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), commit).unwrap();
    fs::write(snapshot.join("m-Q4_0.gguf"), model_file(100, 0)).unwrap();
    let cache = Some(dir.path().join("cache"));
    let hub = Hub::new(HubConfig { hf_cache_dir: cache, ..config(dir.path()) }).unwrap();
    for (text, expected) in [
        ("hf:o/r", true),
        ("hf:o/r:Q4_0", true),
        ("hf:o/r/m-Q4_0.gguf", true),
        (&format!("hf:o/r@{commit}"), true),
        ("hf:o/r@other", false),
        ("hf:o/r:Q8_0", false),
        ("hf:o/other", false),
    ] {
        let found = hub.resolve(&Reference::parse(text).unwrap());
        assert_eq!(found, expected.then(|| snapshot.join("m-Q4_0.gguf")), "{text}");
    }
}

#[tokio::test]
async fn the_private_network_is_out_of_reach() {
    let dir = tempfile::tempdir().unwrap();
    let inner = Server::start(|r, _| Reply::file(r, &model_file(100, 0), "\"1\"")).await;
    let port = inner.address.rsplit(':').next().unwrap().to_owned();
    let closed = Hub::new(HubConfig { allow_private_addresses: false, ..config(dir.path()) });
    let closed = closed.unwrap();
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
    ] {
        let reference = Reference::parse(&format!("http://{host}:{port}/m.gguf")).unwrap();
        let error = closed.fetch(&reference, &NoProgress).await.unwrap_err();
        assert!(matches!(error, HubError::Refused { .. }), "{host}: {error}");
        assert_eq!(error.kind(), Kind::Invalid, "{host}");
    }
    let target = format!("http://localhost:{port}/m.gguf");
    let outer =
        Server::start(move |_, _| Reply::status(302).with("location", target.clone())).await;
    let allow_hosts = vec!["127.0.0.1".to_owned()];
    let base = HubConfig { allow_private_addresses: false, ..config(dir.path()) };
    let named = Hub::new(HubConfig { allow_hosts, ..base }).unwrap();
    let error = named.fetch(&outer.url("m.gguf"), &NoProgress).await.unwrap_err();
    assert!(matches!(error, HubError::Refused { .. }), "{error}");
    assert_eq!(inner.seen().len(), 0, "nothing got through");
    let other = Reference::parse("https://example.com/m.gguf").unwrap();
    let error = named.fetch(&other, &NoProgress).await.unwrap_err().to_string();
    assert!(error.contains("its host is not one of 127.0.0.1"), "{error}");
    named.fetch(&inner.url("m.gguf"), &NoProgress).await.unwrap();
}

#[test]
fn paths_and_folders_lead_to_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let put = |name: &str| fs::write(dir.path().join(name), b"GGUF").unwrap();
    let look = |name: &str| {
        let reference = Reference::Path(dir.path().join(name));
        hub.resolve(&reference).map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
    };
    assert_eq!(look("."), None);
    put("m-00001-of-00002.gguf");
    put("m-00002-of-00002.gguf");
    put("mmproj-m.gguf");
    assert_eq!(look(".").as_deref(), Some("m-00001-of-00002.gguf"));
    assert_eq!(look("mmproj-m.gguf").as_deref(), Some("mmproj-m.gguf"));
    put("other.gguf");
    assert_eq!(look("."), None, "two models");
    assert_eq!(look("none.gguf"), None);
}

#[tokio::test]
async fn a_repository_of_safetensors_comes_whole_and_goes_whole() {
    const NAMES: [&str; 6] = [
        "README.md",
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
    ];
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf/bert");
    let read = |name| (name, fs::read(source.join(name)).unwrap_or_default());
    let small_files_have_no_checksum = |name: &str, sibling: &mut serde_json::Value| {
        if Path::new(name).extension().is_none_or(|extension| extension != "safetensors") {
            sibling["lfs"] = serde_json::Value::Null;
        }
    };
    let server = repository(NAMES.map(read).to_vec(), small_files_have_no_checksum).await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub_at(dir.path(), &server);
    let reference = Reference::parse("hf:o/r").unwrap();
    let path = hub.fetch(&reference, &NoProgress).await.unwrap();
    let gguf = model::open(&path, Access::OnDemand).unwrap();
    assert_eq!(gguf.metadata().u32("bert.pooling_type").unwrap(), Some(2), "the folder came too");
    assert_eq!(hub.resolve(&reference), Some(path));
    assert_eq!(hub.list()[0].files.len(), 5);
    // A folder with such files is a model as well.
    let folder = Reference::Path(source.clone());
    assert_eq!(hub.resolve(&folder), Some(source));
    hub.remove("hf:o/r").unwrap();
    assert_eq!(files_in(dir.path()), Vec::<PathBuf>::new());
}
