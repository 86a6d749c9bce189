//! The folder of downloaded models: plain files, each model with a small JSON file beside it.
//!
//! ```text
//! models/hf/org/repo/main/model.gguf          the model, complete and checked
//!                         model.gguf.json     where it came from: the model exists once this does
//!                         model.gguf.part     an unfinished download …
//!                         model.gguf.part.json  … and how to go on with it
//! models/url/…  models/pypi/…
//! models/.tmp/  models/.locks/
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::checksum::{hex, sha256};
use super::directory::is_safetensors;
use super::{HubError, files, is_gguf};

/// Folders are looked into this deep: `hf/org/repo/branch/with/slashes/folder/file` and some more.
const DEPTH_MAX: usize = 12;
/// Temporary folders that a killed process left are removed after this time.
const STALE: Duration = Duration::from_hours(24);

/// Largest JSON file beside a model: a split model has hundreds of files at most.
const SIDECAR_BYTES_MAX: u64 = 4 << 20;

/// A model in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalModel {
    /// The shortest of its names.
    pub name: String,
    /// All names that lead to it.
    pub references: Vec<String>,
    /// The address it came from.
    pub source: String,
    /// The file to open; of a split model, or one in safetensors files, the first.
    pub path: PathBuf,
    pub files: Vec<LocalFile>,
    /// Of all files together.
    pub bytes: u64,
    pub modified: Option<SystemTime>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFile {
    /// A name as seen from the JSON file: beside it, or in a folder that is.
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

/// What is written beside a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sidecar {
    pub(super) references: Vec<String>,
    pub(super) source: String,
    pub(super) files: Vec<LocalFile>,
}

/// The folder of models.
#[derive(Clone, Debug)]
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A folder below the root; every segment must have been checked to be a plain name.
    pub(super) fn folder<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> PathBuf {
        let mut path = self.root.clone();
        for segment in segments {
            // The callers' checks make this impossible; a path that left the store would be worse
            // than a wrong folder inside it.
            path.push(segment.replace(['/', '\\', ':', '\0'], "_").replace("..", "_"));
        }
        path
    }

    /// All complete models, by name.
    pub(super) fn list(&self) -> Vec<LocalModel> {
        let mut models = Vec::new();
        collect(&self.root, DEPTH_MAX, &mut models);
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// The complete model that was fetched as `reference`, the newest if there are several.
    pub(super) fn find(&self, reference: &str) -> Option<LocalModel> {
        let models = self.list().into_iter();
        models.filter(|m| m.references.iter().any(|r| r == reference)).max_by_key(|m| m.modified)
    }

    /// Deletes the files of `model` and folders that become empty.
    pub(super) fn remove(&self, model: &LocalModel) -> Result<(), HubError> {
        let folder = model.path.parent().unwrap_or(&self.root);
        // The sidecar goes first: without it, nothing takes a half-deleted model for a whole one.
        let files = model.files.iter().map(|file| folder.join(&file.name));
        for path in std::iter::once(sidecar_path(&model.path)).chain(files) {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(HubError::io("delete", path, e));
                }
                _ => {}
            }
        }
        for file in &model.files {
            self.prune(folder.join(&file.name).parent().unwrap_or(folder));
        }
        Ok(())
    }

    /// Deletes `folder` and those above it, inside the store, as far as they are empty.
    pub(super) fn prune(&self, folder: &Path) {
        let above = folder.ancestors().take_while(|f| f.starts_with(&self.root) && *f != self.root);
        for folder in above {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }

    /// A new folder for unfinished things, removed when dropped.
    pub(super) fn temp_dir(&self) -> Result<TempDir, HubError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let parent = self.root.join(".tmp");
        create_dir(&parent)?;
        remove_stale(&parent);
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{count}-{}", std::process::id(), nanos.as_nanos());
        let path = parent.join(name);
        fs::create_dir(&path).map_err(|e| HubError::io("create", &path, e))?;
        Ok(TempDir(path))
    }

    /// Tries to become the only one, of all processes, that writes the file at `path`.
    ///
    /// `Ok(None)`: somebody else is. The lock ends with the returned value.
    pub(super) fn try_lock(&self, path: &Path) -> Result<Option<Lock>, HubError> {
        let folder = self.root.join(".locks");
        create_dir(&folder)?;
        let name = hex(&sha256(path.as_os_str().as_encoded_bytes()));
        let lock_path = folder.join(name.get(..32).unwrap_or(&name));
        let file = files::open(&lock_path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: Some(file) })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            // Some network file systems have no locks; checksums still guard what is stored.
            Err(fs::TryLockError::Error(_)) => Ok(Some(Lock { _file: None })),
        }
    }
}

/// Notes that the model at `path` is complete. Its names are joined with those it had.
pub(super) fn record(path: &Path, mut sidecar: Sidecar) -> Result<(), HubError> {
    if let Some(old) = read_sidecar(&sidecar_path(path)) {
        let older = old.references.into_iter().filter(|r| !sidecar.references.contains(r));
        let older: Vec<String> = older.collect();
        sidecar.references.splice(0..0, older);
    }
    let text = serde_json::to_vec_pretty(&sidecar)
        .map_err(|e| HubError::failed("describing the model", e.to_string()))?;
    write_whole(&sidecar_path(path), &text)
}

/// The complete model whose first or only file is at `path`.
pub(super) fn model_at(path: &Path) -> Option<LocalModel> {
    local_model(&sidecar_path(path)).filter(|model| model.path == path)
}

/// Held while a file is being written.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Option<File>,
}

/// A folder that is deleted with all it holds when dropped.
#[derive(Debug)]
pub(super) struct TempDir(PathBuf);

impl TempDir {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Nobody to tell; a later fetch removes what stays behind.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn create_dir(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|e| HubError::io("create", path, e))
}

/// Writes a small file so that it is there as a whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let part = with_suffix(path, ".new");
    let mut file = files::create(&part)?;
    file.write_all(bytes)
        .and_then(|()| fs::rename(&part, path))
        .map_err(|e| HubError::io("write", path, e))
}

/// `path` with `suffix` behind its last character.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Whether a file of this name may be the first of a model.
fn is_model(name: &str) -> bool {
    is_gguf(name) || is_safetensors(name)
}

fn sidecar_path(model: &Path) -> PathBuf {
    with_suffix(model, ".json")
}

fn read_sidecar(path: &Path) -> Option<Sidecar> {
    serde_json::from_slice(&files::read_small(path, SIDECAR_BYTES_MAX)?).ok()
}

fn collect(folder: &Path, depth: usize, models: &mut Vec<LocalModel>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        match entry.file_type() {
            Ok(ty) if ty.is_dir() && depth > 0 => collect(&entry.path(), depth - 1, models),
            Ok(ty) if ty.is_file() && name.strip_suffix(".json").is_some_and(is_model) => {
                models.extend(local_model(&entry.path()));
            }
            _ => {}
        }
    }
}

/// The model that a JSON file describes, if all its files are there in full.
fn local_model(sidecar_path: &Path) -> Option<LocalModel> {
    let sidecar = read_sidecar(sidecar_path)?;
    let folder = sidecar_path.parent()?;
    let is_plain = |file: &&LocalFile| {
        !file.name.contains('\\')
            && Path::new(&file.name).components().all(|part| matches!(part, Component::Normal(_)))
    };
    let is_whole = |file: &&LocalFile| {
        let found = fs::metadata(folder.join(&file.name));
        found.is_ok_and(|m| m.is_file() && m.len() == file.bytes)
    };
    if !sidecar.files.iter().all(|file| is_plain(&file) && is_whole(&file)) {
        return None;
    }
    let path = folder.join(&sidecar.files.first()?.name);
    Some(LocalModel {
        name: sidecar.references.iter().min_by_key(|name| name.len())?.clone(),
        references: sidecar.references,
        source: sidecar.source,
        bytes: sidecar.files.iter().map(|file| file.bytes).sum(),
        modified: fs::metadata(sidecar_path).and_then(|m| m.modified()).ok(),
        files: sidecar.files,
        path,
    })
}

fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|m| m.modified());
        let age = modified.ok().and_then(|m| m.elapsed().ok()).unwrap_or_default();
        if age > STALE {
            // Best effort: it may belong to another user.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
