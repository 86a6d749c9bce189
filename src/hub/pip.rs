//! Python packages, fetched by the installed `pip`, which never outlives its purpose.
//!
//! Only wheels are accepted: building a source package would run its code. `pip` runs in an empty
//! folder, so that no module lying about is mistaken for it, and nothing is ever installed.
//!
//! On Unix it runs in a process group of its own, which Ctrl-C at the terminal does not reach, under a
//! shell that waits at a pipe from this process. The pipe closes when the fetch is given up and when
//! this process ends, however it does; then the shell kills the group, pip's own children included.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::store::create_dir;
use super::{HubError, Progress};

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Longest time for one package.
const PIP_TIMEOUT: Duration = Duration::from_hours(6);
/// How much of pip's words an error repeats.
const COMPLAINT_CHARS_MAX: usize = 200;
/// How much of pip's words is looked at.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Ways to call pip, tried in order until one exists.
const PIP_COMMANDS: [&[&str]; 4] =
    [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];

/// Runs its arguments, and kills all of its process group when its input ends. The watcher is killed
/// and waited for first, so that a pip that ends by itself leaves nothing behind.
#[cfg(unix)]
const WATCHED: &str = "exec 3<&0 </dev/null
{ read -r _ <&3; kill -9 0; } >/dev/null 2>&1 &
watcher=$!
\"$@\" 3<&-
status=$?
{ kill -9 $watcher; wait $watcher; } 2>/dev/null
exit $status";
/// What a shell says of a program that does not exist.
const NOT_FOUND: i32 = 127;

/// How pip is called, and how much it may bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pip<'a> {
    /// Found out if empty.
    pub(super) command: &'a [String],
    pub(super) bytes_max: u64,
}

enum PipEnd {
    Done,
    /// This way of calling pip does not exist here.
    NotThere,
    Failed(String),
}

impl Pip<'_> {
    /// Has pip fetch the wheel of `spec` (`name` or `name==version`) into `folder`.
    pub(super) async fn download_wheel(
        self,
        spec: &str,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let dest = folder.join(spec.replace(['=', '!', '+'], "-"));
        create_dir(&dest)?;
        let commands: Vec<Vec<String>> = if self.command.is_empty() {
            PIP_COMMANDS.iter().map(|c| c.iter().map(ToString::to_string).collect()).collect()
        } else {
            vec![self.command.to_vec()]
        };
        progress.start(spec, None);
        for command in commands {
            match self.run(&command, spec, &dest, progress).await? {
                PipEnd::NotThere => {}
                PipEnd::Failed(complaint) => return Err(pip_error(spec, &complaint)),
                PipEnd::Done => {
                    progress.finish();
                    return find_wheel(&dest, spec);
                }
            }
        }
        Err(HubError::failed(format!("fetching {spec}"), "pip is not installed"))
    }

    async fn run(
        self,
        command: &[String],
        spec: &str,
        dest: &Path,
        progress: &dyn Progress,
    ) -> Result<PipEnd, HubError> {
        let Some(mut command) = watched(command) else { return Ok(PipEnd::NotThere) };
        command
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=2"])
            .args(["--timeout=15", "--dest"])
            .arg(dest)
            .args(["--", spec])
            .current_dir(dest)
            // pip collects the download in its temporary folder: here it is seen and later removed.
            .env("TMPDIR", dest)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(PipEnd::NotThere),
            Err(e) => return Err(HubError::io("run pip in", dest, e)),
        };
        let ended = tokio::time::timeout(PIP_TIMEOUT, ended(child));
        tokio::pin!(ended);
        let mut seen = 0;
        let outcome = loop {
            tokio::select! {
                outcome = &mut ended => break outcome,
                () = tokio::time::sleep(POLL) => {
                    let now = folder_bytes(dest, 3);
                    progress.advance(now.saturating_sub(seen));
                    seen = seen.max(now);
                    if now > self.bytes_max {
                        let (what, limit) = (spec.to_owned(), self.bytes_max);
                        return Err(HubError::TooLarge { what, bytes: now, limit });
                    }
                }
            }
        };
        let what = || format!("fetching {spec}");
        let (status, complaint) = outcome
            .map_err(|_| HubError::failed(what(), format!("no end after {PIP_TIMEOUT:?}")))?
            .map_err(|e| HubError::failed(what(), e.to_string()))?;
        Ok(pip_end(status, &complaint))
    }
}

/// `command` under the watching shell; `None` if it is empty.
#[cfg(unix)]
fn watched(command: &[String]) -> Option<Command> {
    if command.is_empty() {
        return None;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", WATCHED, "sh"]).args(command).process_group(0);
    Some(shell)
}

#[cfg(not(unix))]
fn watched(command: &[String]) -> Option<Command> {
    let [program, first_args @ ..] = command else { return None };
    let mut command = Command::new(program);
    command.args(first_args);
    Some(command)
}

/// Waits for the end of pip and what it complained of. The child's input stays open until then: it
/// closes with the child's drop.
async fn ended(mut child: Child) -> io::Result<(ExitStatus, Vec<u8>)> {
    let _input = child.stdin.take();
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = stderr.take(OUTPUT_BYTES_MAX);
        stderr.read_to_end(&mut complaint).await?;
    }
    Ok((child.wait().await?, complaint))
}

fn pip_end(status: ExitStatus, complaint: &[u8]) -> PipEnd {
    if status.success() {
        return PipEnd::Done;
    }
    let complaint = String::from_utf8_lossy(complaint).trim().to_owned();
    if status.code() == Some(NOT_FOUND) || complaint.contains("No module named pip") {
        return PipEnd::NotThere;
    }
    PipEnd::Failed(complaint)
}

/// Sorts pip's complaints; they are for people, so this can only look for known words.
fn pip_error(spec: &str, complaint: &str) -> HubError {
    const NETWORK: [&str; 7] = [
        "NewConnectionError",
        "ConnectTimeoutError",
        "NameResolutionError",
        "ProxyError",
        "ReadTimeoutError",
        "Connection refused",
        "Temporary failure in name resolution",
    ];
    tracing::debug!(spec, complaint, "pip failed");
    if NETWORK.iter().any(|word| complaint.contains(word)) {
        return HubError::Unreachable {
            what: "the index of Python packages".into(),
            problem: "no connection".into(),
        };
    }
    if complaint.contains("No matching distribution found") {
        return HubError::NotFound(format!(
            "there is no package {spec} with a wheel; check its name and its version"
        ));
    }
    HubError::failed(format!("fetching {spec} with pip"), last_error(complaint))
}

/// The last that pip calls an error, without what it says of its own working.
fn last_error(complaint: &str) -> String {
    let said = |line: &str| line.strip_prefix("ERROR: ").map(str::to_owned);
    let error = complaint.lines().rev().find_map(|line| said(line.trim()));
    let error = error.unwrap_or_else(|| "it gave no reason that could be read".to_owned());
    error.chars().take(COMPLAINT_CHARS_MAX).collect()
}

fn folder_bytes(folder: &Path, depth: usize) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() && depth > 0 => folder_bytes(&entry.path(), depth - 1),
            Ok(found) if found.is_file() => found.len(),
            _ => 0,
        })
        .sum()
}

fn find_wheel(folder: &Path, spec: &str) -> Result<PathBuf, HubError> {
    let entries = std::fs::read_dir(folder).map_err(|e| HubError::io("read", folder, e))?;
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|e| e == "whl");
    let mut wheels = entries.flatten().map(|entry| entry.path()).filter(is_wheel);
    match (wheels.next(), wheels.next()) {
        (Some(wheel), None) => Ok(wheel),
        (None, _) => Err(HubError::failed(format!("fetching {spec}"), "pip left no wheel")),
        _ => Err(HubError::failed(format!("fetching {spec}"), "pip left several wheels")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_a_sentence_without_pips_own_words() {
        let network = "WARNING: Retrying (Retry(total=1, connect=None)) after connection broken by \
                       'NewConnectionError(<pip._vendor.urllib3.connection>)': /simple/p/\n\
                       ERROR: No matching distribution found for p";
        let cases = [
            (
                network,
                "cannot reach the index of Python packages: no connection; check the network",
            ),
            ("ERROR: No matching distribution found for p", "there is no package p with a wheel"),
            (
                "Traceback (most recent call last):\n  File \"pip/x.py\"\nERROR: disk full\nnote",
                "disk full",
            ),
            ("Traceback (most recent call last):", "no reason"),
        ];
        for (complaint, expected) in cases {
            let error = pip_error("p", complaint).to_string();
            assert!(error.contains(expected), "{error}");
            for word in ["Traceback", "_vendor", "Retry", "File"] {
                assert!(!error.contains(word), "{error}");
            }
        }
    }
}
