//! Unfinished downloads that somebody tampered with, and files that are laid where they will be written.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use kolosal_server::hub::{HubError, NoProgress, Reference};

use super::server::{Reply, Server};
use super::{files_in, hub, model_file};

const BYTES: usize = 1_500_000;

/// A server whose first answer stops midway, and what a fetch from it left: the `.part`.
async fn broken_off(dir: &Path, body: &[u8]) -> (Server, Reference, PathBuf) {
    let content = body.to_vec();
    let server = Server::start(move |request, number| {
        let mut reply = Reply::file(request, &content, "\"1\"");
        if number == 0 {
            (reply.cut, reply.hang) = (Some(1_000_000), true);
        }
        reply
    })
    .await;
    let reference = server.url("m.gguf");
    let part = || files_in(dir).into_iter().find(|path| path.extension() == Some("part".as_ref()));
    let has_some = || part().is_some_and(|part| fs::metadata(part).unwrap().len() > 500_000);
    let first = hub(dir);
    tokio::select! {
        result = first.fetch(&reference, &NoProgress) => panic!("the server hangs: {result:?}"),
        () = async { while !has_some() { tokio::task::yield_now().await } } => {}
    }
    (server, reference, part().unwrap())
}

fn journal(part: &Path) -> PathBuf {
    part.with_extension("part.json")
}

fn edit_journal(part: &Path, edit: impl Fn(&mut serde_json::Value)) {
    let path = journal(part);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[tokio::test]
async fn damaged_parts_are_begun_again() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, bool); 8] = [
        ("none", |_| {}, true),
        (
            "bytes behind what was noted",
            |part| {
                let mut bytes = fs::read(part).unwrap();
                bytes.extend([7; 1000]);
                fs::write(part, bytes).unwrap();
            },
            true,
        ),
        (
            "a changed byte",
            |part| {
                let mut bytes = fs::read(part).unwrap();
                bytes[1_000] ^= 1;
                fs::write(part, bytes).unwrap();
            },
            false,
        ),
        (
            "cut short",
            |part| {
                let bytes = fs::read(part).unwrap();
                fs::write(part, &bytes[..1_000]).unwrap();
            },
            false,
        ),
        (
            "another checksum",
            |part| {
                edit_journal(part, |journal| journal["received_sha256"] = "0".repeat(64).into());
            },
            false,
        ),
        (
            "more than there is",
            |part| {
                edit_journal(part, |journal| journal["received"] = (1_u64 << 60).into());
            },
            false,
        ),
        (
            "more than the whole",
            |part| {
                edit_journal(part, |journal| journal["total"] = 10.into());
            },
            false,
        ),
        ("no journal", |part| fs::write(journal(part), "{").unwrap(), false),
    ];
    let body = model_file(BYTES, 0);
    for (name, damage, goes_on) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (server, reference, part) = broken_off(dir.path(), &body).await;
        damage(&part);
        let path = hub(dir.path()).fetch(&reference, &NoProgress).await.unwrap();
        assert!(fs::read(path).unwrap() == body, "{name}");
        let range = server.seen()[1].header("range").to_owned();
        assert_eq!(range.starts_with("bytes="), goes_on, "{name}: {range}");
        assert_eq!(server.seen().len(), 2, "{name}");
    }
}

/// Bytes and journal were changed alike: only the promised checksum tells.
#[tokio::test]
async fn a_forged_part_does_not_pass_the_promised_checksum() {
    let (dir, body) = (tempfile::tempdir().unwrap(), model_file(BYTES, 0));
    let (content, promised) = (body.clone(), super::sha256(&body));
    let server = Server::start(move |request, number| {
        let promised = format!("\"{promised}\"");
        let mut reply = Reply::file(request, &content, "\"1\"").with("x-linked-etag", promised);
        if number < 6 {
            reply.cut = Some(if number == 0 { 200_000 } else { 0 });
        }
        reply
    })
    .await;
    let reference = server.url("m.gguf");
    let error = hub(dir.path()).fetch(&reference, &NoProgress).await;
    let Err(HubError::Interrupted { .. }) = error else { panic!("{error:?}") };
    let parts = files_in(dir.path());
    let part = parts.iter().find(|path| path.extension() == Some("part".as_ref())).unwrap();
    let mut bytes = fs::read(part).unwrap();
    bytes[100] ^= 1;
    fs::write(part, &bytes).unwrap();
    edit_journal(part, |journal| journal["received_sha256"] = super::sha256(&bytes).into());
    let path = hub(dir.path()).fetch(&reference, &NoProgress).await.unwrap();
    assert!(fs::read(path).unwrap() == body);
}

#[tokio::test]
async fn links_are_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let (victim, body) = (dir.path().join("victim"), model_file(BYTES, 0));
    let content = body.clone();
    let server = Server::start(move |r, _| Reply::file(r, &content, "\"1\"")).await;
    let reference = server.url("m.gguf");
    let first = hub(dir.path()).fetch(&reference, &NoProgress).await.unwrap();
    let locks = fs::read_dir(dir.path().join("models/.locks")).unwrap();
    let lock = locks.flatten().next().unwrap().path();
    hub(dir.path()).remove(&reference.to_string()).unwrap();
    fs::create_dir_all(first.parent().unwrap()).unwrap();
    fs::write(&victim, "precious").unwrap();
    fs::remove_file(&lock).unwrap();
    let beside = |ending: &str| PathBuf::from(format!("{}{ending}", first.display()));
    for link in [
        beside(".part"),
        beside(".part.json"),
        beside(".part.json.new"),
        beside(".json"),
        beside(".json.new"),
        lock,
    ] {
        symlink(&victim, link).unwrap();
    }
    let path = hub(dir.path()).fetch(&reference, &NoProgress).await.unwrap();
    assert!(fs::read(path).unwrap() == body);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}
