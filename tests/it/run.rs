//! `kolosal run` without a terminal, and what `kolosal` makes of words that are no commands.

use std::path::Path;

use crate::program::{Run, Serving, finish, kolosal};
use crate::tiny::Tiny;

fn home() -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("m.gguf");
    std::fs::write(&path, Tiny::default().bytes()).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (home, path)
}

fn run(home: &Path, args: &[&str], input: &str) -> Run {
    finish(kolosal(home).arg("run").args(args), input)
}

const SHORT: [&str; 6] = ["-n", "4", "--temp", "0", "--seed", "1"];

#[test]
fn flags_stand_anywhere_and_have_their_usual_names() {
    let (home, model) = home();
    let before = run(home.path(), &[&SHORT[..], &[&model, "ab"]].concat(), "");
    let after = run(home.path(), &[&[&*model, "ab"][..], &SHORT].concat(), "");
    assert_eq!((before.code, &before.out), (0, &after.out), "{before:?} {after:?}");
    let more = [
        "--top-p",
        "0.5",
        "--top-k",
        "3",
        "--min-p",
        "0.1",
        "--repeat-penalty",
        "1.1",
        "--presence-penalty",
        "-0.5",
        "--frequency-penalty",
        "0.5",
        "--stop",
        "zz",
        "--think",
        "off",
        "--verbose",
    ];
    let told = run(home.path(), &[&[&*model, "ab"][..], &SHORT, &more].concat(), "");
    assert!(told.code == 0 && told.err.contains("tokens/s"), "{told:?}");
    assert!(!told.err.contains("DEBUG"), "{told:?}");
    for (flag, value, problem) in [
        ("--temperature", "9", "temperature must be from 0 to 2"),
        ("--top-p", "2", "top_p must be from 0 to 1"),
        ("--think", "perhaps", "reasoning_effort"),
    ] {
        let refused = run(home.path(), &[&model, "ab", flag, value], "");
        assert!(refused.code == 2 && refused.err.contains(problem), "{refused:?}");
    }
}

#[test]
fn files_and_standard_input_are_context() {
    let (home, model) = home();
    let note = home.path().join("note.txt");
    std::fs::write(&note, "a note").unwrap();
    let counted = |args: &[&str], input: &str| {
        let args = [&[&*model][..], args, &SHORT, &["--json"]].concat();
        run(home.path(), &args, input).json()["prompt_tokens"].as_u64().unwrap()
    };
    let alone = counted(&["ab"], "");
    let note = note.to_str().unwrap();
    // One token a byte, and the name of the file.
    assert!(counted(&["ab", "--file", note], "") >= alone + 6 + note.len() as u64);
    assert_eq!(counted(&["ab"], "cd"), alone + 4, "two line breaks between them");
    let missing = run(home.path(), &[&model, "ab", "-f", "none.txt"], "");
    assert!(missing.code == 1 && missing.err.contains("none.txt"), "{missing:?}");
}

#[test]
fn a_server_that_has_the_model_answers() {
    let (home, model) = home();
    let args = [&format!("served={model}"), "--threads", "1", "--n-ctx", "256"];
    let serving = Serving::start(home.path(), &args);
    let ask = |args: &[&str]| {
        let args = [args, &["ab", "--url", &serving.url], &SHORT].concat();
        run(home.path(), &args, "")
    };
    let local = run(home.path(), &[&[&*model, "ab", "--local"][..], &SHORT].concat(), "");
    for name in ["served", &model] {
        let there = ask(&[name, "--verbose"]);
        assert_eq!((there.code, &there.out), (0, &local.out), "{there:?}");
        assert!(there.err.contains("answers at") && there.err.contains("tokens/s"), "{there:?}");
    }
    let json = ask(&["served", "--json"]).json();
    assert_eq!((&json["completion_tokens"], &json["finish_reason"]), (&4.into(), &"length".into()));
    let other = ask(&["other"]);
    assert!(other.code == 1 && other.err.contains("it has served"), "{other:?}");
    drop(serving);
    let gone = run(home.path(), &["served", "ab", "--url", "http://127.0.0.1:9"], "");
    assert_eq!(gone.code, 69, "{gone:?}");
}

#[test]
fn a_server_without_any_model_says_so_and_ends() {
    let (home, _) = home();
    let broken = home.path().join("broken.gguf");
    std::fs::write(&broken, "no model").unwrap();
    let broken = broken.to_str().unwrap();
    let serve =
        |args: &[&str]| finish(kolosal(home.path()).args(["serve", "--port", "0"]).args(args), "");
    let ended = serve(&[broken]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.err.contains("no model could be loaded") && ended.err.contains("--wait"),
        "{ended:?}"
    );
    let offline = serve(&["--offline"]);
    assert!(offline.code == 1 && offline.err.contains("smollm2:135m"), "{offline:?}");
    let waiting = Serving::start(home.path(), &[broken, "--wait"]);
    waiting.wait_for("cannot be loaded");
    let (status, _) = crate::program::request("GET", &format!("{}/livez", waiting.url), None);
    assert_eq!(status, 200);
}

#[test]
fn words_that_are_no_commands_start_no_server() {
    let (home, _) = home();
    for (args, code, text) in [
        (&["help"][..], 0, "Usage: kolosal"),
        (&["help", "run"], 0, "--temperature"),
        (&["version"], 0, env!("CARGO_PKG_VERSION")),
        (&["nonsense"], 2, "nonsense"),
        (&["serv"], 2, "serve"),
    ] {
        let run = finish(kolosal(home.path()).args(args), "");
        assert_eq!(run.code, code, "{run:?}");
        assert!(run.out.contains(text) || run.err.contains(text), "{run:?}");
    }
}
