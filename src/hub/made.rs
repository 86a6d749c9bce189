//! Models that were made of others: a small JSON file each, beside those that were downloaded.
//!
//! What stands in it is the matter of whoever made the model; here it is a name and a JSON value.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::checksum::{hex, sha256};
use super::store::{create_dir, write_whole};
use super::{Hub, HubError, files};

/// Largest file of a model that was made: templates have 128 KiB at most.
const MADE_BYTES_MAX: u64 = 1 << 20;
/// Models that are read from the folder.
const MADE_MAX: usize = 10_000;

#[derive(Serialize, Deserialize)]
struct Made {
    name: String,
    what: Value,
}

impl Hub {
    /// Keeps what a model of this name is made of.
    ///
    /// # Errors
    /// It is too large, or the folder cannot be written.
    pub fn keep_made(&self, name: &str, what: &Value) -> Result<(), HubError> {
        let made = Made { name: name.to_owned(), what: what.clone() };
        let text = serde_json::to_vec_pretty(&made)
            .map_err(|error| HubError::failed("describing the model", error.to_string()))?;
        if text.len() as u64 > MADE_BYTES_MAX {
            let text = format!("its description has {} bytes, limit {MADE_BYTES_MAX}", text.len());
            return Err(HubError::invalid(name, text));
        }
        create_dir(&self.made_dir())?;
        write_whole(&self.made_file(name), &text)
    }

    /// All models that were made, by name.
    #[must_use]
    pub fn all_made(&self) -> Vec<(String, Value)> {
        let entries = fs::read_dir(self.made_dir()).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).take(MADE_MAX);
        let read = files.filter_map(|path| {
            let made: Made =
                serde_json::from_slice(&files::read_small(&path, MADE_BYTES_MAX)?).ok()?;
            (path == self.made_file(&made.name)).then_some((made.name, made.what))
        });
        let mut all: Vec<_> = read.collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Forgets a model that was made; whether there was one.
    ///
    /// # Errors
    /// Its file cannot be deleted.
    pub fn forget_made(&self, name: &str) -> Result<bool, HubError> {
        let path = self.made_file(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(HubError::io("delete", path, error)),
        }
    }

    fn made_dir(&self) -> PathBuf {
        self.models_dir().join("made")
    }

    /// Names may have any characters; files may not.
    fn made_file(&self, name: &str) -> PathBuf {
        let hash = hex(&sha256(name.as_bytes()));
        self.made_dir().join(format!("{}.json", hash.get(..32).unwrap_or(&hash)))
    }
}
