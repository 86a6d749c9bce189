//! Model files: from the name that a person gives to a file on this machine.
//!
//! [`Reference`] is such a name. [`Hub::resolve`] looks whether the model is here already,
//! [`Hub::fetch`] gets it if not. Downloads resume where they stopped, are checked by size and
//! checksum where these are known, and appear under their name only when complete, so that a
//! partial file is never taken for a model. Two processes that want the same file wait for each
//! other.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use kolosal_server::hub::{Hub, HubConfig, NoProgress, Reference};
//! let hub = Hub::new(HubConfig::from_env())?;
//! let path = hub.fetch(&Reference::parse("smollm2:135m")?, &NoProgress).await?;
//! # Ok(()) }
//! ```

mod catalog;
mod checksum;
mod config;
mod directory;
mod download;
mod error;
mod fetch;
mod files;
mod http;
mod made;
mod package;
mod part;
mod pip;
mod progress;
mod reference;
mod repo;
mod slots;
mod sources;
mod store;
mod tls;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use catalog::{CatalogEntry, DEFAULT_MODEL, Expect, Source, builtin as builtin_catalog};
pub use config::{HubConfig, Token};
pub use error::HubError;
pub use progress::{NoProgress, Progress};
pub use reference::{PackageReference, Reference, RepoReference, Select};
pub use slots::{Place, Slots, Turn};
pub use sources::Sources;
pub use store::{LocalFile, LocalModel};
pub use tls::client_builder;

pub(crate) use http::describe;

use http::Http;
use reference::is_gguf;
use store::Store;

/// Each pip is a Python of its own, of some 50 MB.
const PIPS_AT_ONCE: usize = 2;

/// Finds, fetches, lists and removes model files. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    /// Without a slash at its end.
    endpoint: String,
    http: Http,
    store: Store,
    /// Downloads of every kind.
    downloads: Slots,
    /// Of them, those that run pip.
    pips: Slots,
}

impl Hub {
    /// Sets up the hub; nothing is read or written yet.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        let endpoint = config.endpoint.trim_end_matches('/').to_owned();
        let url = reqwest::Url::parse(&endpoint)
            .map_err(|e| HubError::invalid(&endpoint, format!("not a hub address: {e}")))?;
        let http = Http::new(&config, &url)?;
        let store = Store::new(config.models_dir.clone());
        let downloads = Slots::new(config.max_downloads, config.max_download_queue);
        let pips = Slots::new(PIPS_AT_ONCE, config.max_download_queue);
        Ok(Self { config, endpoint, http, store, downloads, pips })
    }

    /// The file of a model that is here already; looks at the disk only.
    pub fn resolve(&self, reference: &Reference) -> Option<PathBuf> {
        self.locate(reference).ok().flatten()
    }

    /// All models in the store, by name.
    pub fn list(&self) -> Vec<LocalModel> {
        self.store.list()
    }

    /// The model of the store that `name` (any of its references, or its file's path) means.
    pub fn find(&self, name: &str) -> Option<LocalModel> {
        let canonical = Reference::parse(name).map_or_else(|_| name.into(), |r| r.to_string());
        self.store.find(&canonical).or_else(|| {
            let path = self.resolve(&Reference::parse(name).ok()?)?;
            self.list().into_iter().find(|model| model.path == path)
        })
    }

    /// Deletes a model from the store and says what was deleted. Other files are never touched.
    pub fn remove(&self, name: &str) -> Result<LocalModel, HubError> {
        let model = self.find(name).ok_or_else(|| {
            let root = self.store.root().display();
            HubError::NotFound(format!("there is no model {name:?} in {root}"))
        })?;
        self.store.remove(&model)?;
        Ok(model)
    }

    /// The catalogue: names that can be fetched.
    pub fn catalog(&self) -> &[CatalogEntry] {
        &self.config.catalog
    }

    /// Where downloaded models are kept.
    pub fn models_dir(&self) -> &Path {
        self.store.root()
    }

    /// Like [`Hub::resolve`], telling "not here" from what makes fetching pointless.
    fn locate(&self, reference: &Reference) -> Result<Option<PathBuf>, HubError> {
        match reference {
            Reference::Path(path) => locate_path(path).map(Some),
            Reference::Catalog(name) => {
                let entry = self.entry(name)?;
                if let Some(model) = self.store.find(name) {
                    return Ok(Some(model.path));
                }
                Ok(entry.sources.iter().find_map(|source| self.locate_source(source)))
            }
            Reference::Repo(repo) => Ok(self
                .store
                .find(&reference.to_string())
                .map(|model| model.path)
                .or_else(|| repo::find_cached(self.config.hf_cache_dir.as_deref()?, repo))),
            Reference::Url(_) | Reference::Package(_) => {
                Ok(self.store.find(&reference.to_string()).map(|model| model.path))
            }
        }
    }

    /// A source's file, if it is here and has the size that it should have.
    fn locate_source(&self, source: &Source) -> Option<PathBuf> {
        let path = self.resolve(&source.reference)?;
        let bytes = std::fs::metadata(&path).ok()?.len();
        source.expect.bytes.is_none_or(|expected| expected == bytes).then_some(path)
    }

    fn entry(&self, name: &str) -> Result<&CatalogEntry, HubError> {
        self.config.catalog.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.config.catalog.iter().map(|e| e.name.as_str()).collect();
            HubError::NotFound(format!(
                "there is no model {name:?} in the catalogue; it has {}. Other forms: a path, \
                 hf:org/repo, https://…, pypi:package",
                names.join(", ")
            ))
        })
    }
}

/// Says that a file is not there, and what may have been meant.
fn no_file(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        [org, _] if !org.is_empty() && !org.starts_with(['.', '~']) && !is_gguf(path) => {
            format!("there is no file {path}; on the Hugging Face hub it would be hf:{path}")
        }
        _ => format!("there is no file {path}"),
    }
}

/// The model file that a path means: itself, or the one model in a folder.
fn locate_path(path: &Path) -> Result<PathBuf, HubError> {
    let shown = path.display().to_string();
    let found = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => HubError::NotFound(no_file(&shown)),
        _ => HubError::io("open", path, e),
    })?;
    if found.is_file() {
        return Ok(path.into());
    }
    if !found.is_dir() {
        return Err(HubError::invalid(shown, "neither a file nor a folder"));
    }
    if crate::model::safetensors::is_model_dir(path) {
        return Ok(path.into());
    }
    let entries = std::fs::read_dir(path).map_err(|e| HubError::io("read", path, e))?;
    // Of a split set, the first file stands for all.
    let mut models = BTreeSet::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_model = is_gguf(&name) && !name.to_ascii_lowercase().contains("mmproj");
        let is_first = crate::model::gguf::parse_split_name(&name).is_none_or(|s| s.1 == 1);
        if is_model && is_first && entry.path().is_file() {
            models.insert(name);
        }
    }
    let mut names = models.into_iter();
    match (names.next(), names.next()) {
        (None, _) => {
            let text = format!("{shown} holds no .gguf file, nor config.json with safetensors");
            Err(HubError::NotFound(text))
        }
        (Some(name), None) => Ok(path.join(name)),
        (Some(first), Some(second)) => {
            let choices = [first, second].into_iter().chain(names).collect();
            Err(HubError::Ambiguous { reference: shown, choices })
        }
    }
}
