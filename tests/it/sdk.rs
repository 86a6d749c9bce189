//! The official OpenAI client against the running program with a real model.
//!
//! Needs Python with the packages of `tests/tools/requirements-clients.txt` (`KOLOSAL_TEST_PYTHON`,
//! else `python3`) and SmolLM2
//! (`KOLOSAL_TEST_MODEL`, else whatever `kolosal pull` has fetched before). Continuous integration
//! installs both, and there their absence is a failure; elsewhere the test says that it was not run and
//! why.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::program::Serving;

#[test]
fn the_official_client_is_content() {
    run_script("openai_client.py", &[]);
}

#[test]
fn answers_follow_random_schemas() {
    run_script("random_schemas.py", &["24", "7000"]);
}

#[test]
fn required_calls_have_valid_arguments() {
    run_script("required_tools.py", &["40"]);
}

/// Runs a script against the program with SmolLM2; it ends with `all ok`.
fn run_script(name: &str, arguments: &[&str]) {
    let (Some(python), Some(model)) = (or_skip(python()), or_skip(model())) else { return };
    let home = tempfile::tempdir().unwrap();
    let engine = format!("smollm2={}", model.display());
    let serving = Serving::start(home.path(), &[&engine, "--n-ctx", "8192", "--n-parallel", "4"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools").join(name);
    let output = Command::new(python)
        .arg(script)
        .args([&format!("{}/v1", serving.url), "smollm2"])
        .args(arguments)
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.ends_with("all ok\n"), "{out}\n{err}");
}

/// What a test needs; where it is missing outside continuous integration, a word why the test does
/// nothing.
pub(crate) fn or_skip<T>(found: Result<T, String>) -> Option<T> {
    if let Err(reason) = &found {
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        skipped(reason);
    }
    found.ok()
}

/// Says that the running test checks nothing, and how many did so before it. The test runner would
/// keep a `println!` of a passing test to itself and count the test as passed.
pub(crate) fn skipped(reason: &str) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "NOT RUN ({count} so far): {test}: {reason}");
}

/// A Python that can import the client.
fn python() -> Result<PathBuf, String> {
    let python = std::env::var_os("KOLOSAL_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let python = PathBuf::from(python);
    let imported = Command::new(&python).args(["-c", "import openai, jsonschema"]).output();
    match imported {
        Ok(output) if output.status.success() => Ok(python),
        _ => Err(format!("{} lacks the package openai or jsonschema", python.display())),
    }
}

/// SmolLM2 on this machine.
pub(crate) fn model() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("KOLOSAL_TEST_MODEL") {
        return Ok(path.into());
    }
    let shown = Command::new(env!("CARGO_BIN_EXE_kolosal"))
        .args(["show", "smollm2:135m", "--json", "--offline"])
        .output()
        .map_err(|error| error.to_string())?;
    let facts: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    facts["path"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| "no model; run: kolosal pull smollm2:135m".to_owned())
}
