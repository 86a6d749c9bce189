//! `kolosal launch` with programs of the test's own in place of the agents.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::program::{Run, Serving, finish, kolosal};
use crate::tiny::Tiny;

const AGENTS: [&str; 6] = ["claude", "codex", "opencode", "qwen", "aider", "goose"];

/// A home with a model, and a folder of programs that tell how they were called and end with 7.
fn home() -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("m.gguf");
    std::fs::write(&model, Tiny { context: 20_000, ..Tiny::default() }.bytes()).unwrap();
    let programs = home.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    let ps = env!("CARGO_BIN_EXE_kolosal");
    let script = format!(
        "#!/bin/sh\nenv\nfor arg in \"$@\"; do echo \"arg $arg\"; done\n\
         url=${{ANTHROPIC_BASE_URL:-$OPENAI_HOST}}\n\
         [ -z \"$url\" ] || {ps} ps --url $url\nexit 7\n"
    );
    for agent in AGENTS {
        let path = programs.join(agent);
        std::fs::write(&path, &script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let model = model.to_str().unwrap().to_owned();
    (home, model)
}

fn command(home: &Path, args: &[&str]) -> Command {
    let path = format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = kolosal(home);
    // No server is where the configuration would have one.
    command.env("PATH", path).env("KOLOSAL_PORT", "9").arg("launch").args(args);
    command
}

fn launch(home: &Path, args: &[&str]) -> Run {
    finish(&mut command(home, args), "")
}

#[test]
fn agents_are_told_where_the_model_is_and_end_as_they_end() {
    let (home, model) = home();
    let serving = Serving::start(
        home.path(),
        &[&format!("org/m={model}"), "--threads", "1", "--n-ctx", "512", "--api-key", "sesame"],
    );
    let url = &serving.url;
    let v1 = format!("{url}/v1");
    let expected = [
        ("claude", vec![format!("ANTHROPIC_BASE_URL={url}"), "ANTHROPIC_MODEL=org/m".into()]),
        (
            "codex",
            vec![
                format!("arg model_providers.kolosal.base_url=\"{v1}\""),
                "arg model_context_window=512".into(),
                "LAUNCHED_API_KEY=sesame".into(),
            ],
        ),
        ("opencode", vec![format!("\"baseURL\":\"{v1}\""), "\"model\":\"kolosal/org/m\"".into()]),
        ("qwen", vec![format!("OPENAI_BASE_URL={v1}"), "OPENAI_MODEL=org/m".into()]),
        ("aider", vec![format!("OPENAI_API_BASE={v1}"), "arg openai/org/m".into()]),
        ("goose", vec![format!("OPENAI_HOST={url}"), "GOOSE_MODEL=org/m".into()]),
    ];
    for (agent, words) in expected {
        let args = [agent, "--url", url, "--api-key", "sesame"];
        let run = launch(home.path(), &[&args[..], &["--", "-p", "do it"]].concat());
        assert_eq!(run.code, 7, "{run:?}");
        assert!(run.err.contains("512 tokens is little"), "{run:?}");
        for word in words.iter().map(String::as_str).chain(["arg do it", "sesame"]) {
            assert!(run.out.contains(word), "{agent} {word}: {run:?}");
        }
        let shown = launch(home.path(), &[&args[..], &["--print"]].concat());
        assert_eq!(shown.code, 0, "{shown:?}");
        assert!(shown.out.contains(agent) && shown.out.contains("org/m"), "{shown:?}");
        assert!(!shown.out.contains("sesame"), "{shown:?}");
    }
    let other = launch(home.path(), &["claude", "--url", url, "--api-key", "sesame", "-m", "none"]);
    assert!(other.code == 1 && other.err.contains("no model none"), "{other:?}");
}

#[test]
fn a_server_is_started_for_the_run_and_ends_with_it() {
    let (home, model) = home();
    let run = launch(home.path(), &["claude", "--model", &model, "--", "hello"]);
    assert_eq!(run.code, 7, "{run:?}");
    let url = run.out.lines().find_map(|line| line.strip_prefix("ANTHROPIC_BASE_URL=")).unwrap();
    // The agent saw it serve.
    assert!(
        run.out.lines().any(|line| line.starts_with("m ") && line.contains("loaded")),
        "{run:?}"
    );
    let gone = finish(kolosal(home.path()).args(["ps", "--url", url]), "");
    assert_eq!(gone.code, 69, "{gone:?}");
    let shown = launch(home.path(), &["codex", "--model", &model, "--print"]);
    assert!(shown.code == 0 && shown.out.contains("kolosal serve"), "{shown:?}");

    let missing = launch(home.path(), &["claude", "--model", "/none.gguf"]);
    assert!(missing.code == 1 && missing.err.contains("/none.gguf"), "{missing:?}");
    assert_eq!(launch(home.path(), &["nobody"]).code, 2);
    std::fs::remove_file(home.path().join("bin/goose")).unwrap();
    let mut absent = command(home.path(), &["goose", "--model", &model]);
    let absent = finish(absent.env("PATH", home.path().join("bin")), "");
    assert!(absent.code == 1 && absent.err.contains("not installed"), "{absent:?}");
}
