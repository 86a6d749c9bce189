//! An unfinished download: its bytes, the checksum so far, and a journal of what it is part of.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::HubError;
use super::store::{create_dir, with_suffix, write_whole};

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// What is known of the file that a part belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) url: String,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    pub(super) total: Option<u64>,
    pub(super) sha256: Option<String>,
}

impl Journal {
    /// What tells the server which version of the file was begun: a strong tag or a date.
    pub(super) fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        strong.or(self.last_modified.as_deref())
    }
}

/// The file `NAME.part` and its journal `NAME.part.json`.
pub(super) struct Part {
    pub(super) journal: Journal,
    path: PathBuf,
    journal_path: PathBuf,
    out: BufWriter<File>,
    hasher: Sha256,
    len: u64,
    announced: bool,
}

impl Part {
    /// Opens what an earlier download of `url` to `dest` left, or begins with nothing.
    pub(super) async fn open(dest: &Path, url: &str) -> Result<Self, HubError> {
        if let Some(folder) = dest.parent() {
            create_dir(folder)?;
        }
        let path = with_suffix(dest, ".part");
        let journal_path = with_suffix(dest, ".part.json");
        let journal = fs::read(&journal_path).await.ok();
        let journal = journal.and_then(|text| serde_json::from_slice::<Journal>(&text).ok());
        let journal = journal.filter(|journal| journal.url == url);
        let (hasher, len) = match journal {
            Some(_) => hash_file(path.clone()).await.unwrap_or_default(),
            None => Default::default(),
        };
        let file = OpenOptions::new().create(true).append(true).open(&path).await;
        let file = file.map_err(|e| HubError::io("create", &path, e))?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        let journal = journal.unwrap_or_default();
        let mut part = Self { journal, path, journal_path, out, hasher, len, announced: false };
        if part.len == 0 {
            part.discard().await?;
        }
        Ok(part)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the user has been told about this file.
    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    pub(super) fn set_announced(&mut self) {
        self.announced = true;
    }

    /// Throws away what is there and begins the file that `journal` describes.
    pub(super) async fn restart(&mut self, journal: Journal) -> Result<(), HubError> {
        self.discard().await?;
        // The journal comes first: bytes without one are worthless, the reverse is an empty start.
        let text = serde_json::to_vec(&journal)
            .map_err(|e| HubError::failed("writing a journal", e.to_string()))?;
        write_whole(&self.journal_path, &text)?;
        self.journal = journal;
        self.announced = true;
        Ok(())
    }

    pub(super) async fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        let written = self.out.write_all(bytes).await;
        written.map_err(|e| HubError::io("write", &self.path, e))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), HubError> {
        self.out.flush().await.map_err(|e| HubError::io("write", &self.path, e))
    }

    /// Empties the part and forgets its journal.
    pub(super) async fn discard(&mut self) -> Result<(), HubError> {
        self.flush().await?;
        let emptied = self.out.get_mut().set_len(0).await;
        emptied.map_err(|e| HubError::io("empty", &self.path, e))?;
        // It may not exist; without bytes beside it, it does no harm either.
        let _ = fs::remove_file(&self.journal_path).await;
        (self.hasher, self.len, self.announced) = (Sha256::new(), 0, false);
        self.journal = Journal::default();
        Ok(())
    }

    pub(super) fn sha256(&self) -> String {
        super::hex(&self.hasher.clone().finalize())
    }

    /// Gives the complete file its name.
    pub(super) async fn finish(mut self, dest: &Path) -> Result<(), HubError> {
        self.flush().await?;
        let synced = self.out.get_ref().sync_all().await;
        synced.map_err(|e| HubError::io("write", &self.path, e))?;
        let renamed = fs::rename(&self.path, dest).await;
        renamed.map_err(|e| HubError::io("create", dest, e))?;
        // A journal without its part is ignored.
        let _ = fs::remove_file(&self.journal_path).await;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.len == 0 {
            // Nothing to continue: leave no empty files behind. After `finish`, none is there.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Checksum of a file, in hexadecimal.
pub(super) async fn file_sha256(path: PathBuf) -> Result<String, HubError> {
    let (hasher, _) = hash_file(path).await?;
    Ok(super::hex(&hasher.finalize()))
}

/// Checksum so far and length of a file.
async fn hash_file(path: PathBuf) -> Result<(Sha256, u64), HubError> {
    let task = tokio::task::spawn_blocking(move || {
        let failed = |e| HubError::io("read", &path, e);
        let mut file = std::fs::File::open(&path).map_err(failed)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let (mut hasher, mut len) = (Sha256::new(), 0);
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                return Ok((hasher, len));
            };
            hasher.update(bytes);
            len += count as u64;
        }
    });
    task.await.map_err(|e| HubError::failed("reading a file", e.to_string()))?
}
