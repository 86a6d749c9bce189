//! An unfinished download: its bytes, the checksum so far, and a journal of what it is part of.
//!
//! The journal says how many bytes were received and what their checksum is. A part that does not bear
//! this out is damaged and thrown away: bytes that came before an interruption are trusted no more than
//! those that come after it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::fs;

use super::checksum::hex;
use super::store::{Lock, create_dir, with_suffix, write_whole};
use super::{HubError, files};

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 256 * 1024;
/// The journal is brought up to date after so much, in bytes or in time: what a killed process loses.
const JOURNAL_BYTES: u64 = 32 << 20;
const JOURNAL_INTERVAL: Duration = Duration::from_secs(1);
/// Largest journal that is looked at.
const JOURNAL_BYTES_MAX: u64 = 64 << 10;

/// What is known of the file that a part belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) url: String,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    pub(super) total: Option<u64>,
    pub(super) sha256: Option<String>,
    /// Bytes that were received and written, and their checksum.
    #[serde(default)]
    pub(super) received: u64,
    #[serde(default)]
    pub(super) received_sha256: String,
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
    file: Arc<File>,
    /// Also held by a write that is under way, so that nobody else begins before it has ended.
    lock: Arc<Lock>,
    /// Received and not yet written.
    buffer: Vec<u8>,
    /// Length and checksum up to the last write that was seen to end.
    written: (u64, Sha256),
    /// A write that was begun has not been seen to end.
    is_writing: bool,
    /// Of all that was received.
    hasher: Sha256,
    len: u64,
    noted: Instant,
    /// Some of it was here before this run.
    resumed: bool,
    announced: bool,
}

impl Part {
    /// Opens what an earlier download of `url` to `dest` left, or begins with nothing.
    /// The file is the caller's alone, by `lock`.
    pub(super) async fn open(dest: &Path, url: &str, lock: Arc<Lock>) -> Result<Self, HubError> {
        if let Some(folder) = dest.parent() {
            create_dir(folder)?;
        }
        let (dest, url) = (dest.to_owned(), url.to_owned());
        let mut part = blocking(move || Self::open_here(&dest, &url, lock)).await?;
        if part.len == 0 {
            part.discard().await?;
        }
        Ok(part)
    }

    fn open_here(dest: &Path, url: &str, lock: Arc<Lock>) -> Result<Self, HubError> {
        let path = with_suffix(dest, ".part");
        let journal_path = with_suffix(dest, ".part.json");
        let journal = files::read_small(&journal_path, JOURNAL_BYTES_MAX);
        let journal = journal.and_then(|text| serde_json::from_slice::<Journal>(&text).ok());
        let file = files::open(&path)?;
        let known = journal.filter(|journal| journal.url == url).and_then(|journal| {
            let hasher = read_back(&file, &journal)?;
            Some((journal, hasher))
        });
        let (journal, hasher) = known.unwrap_or_default();
        let len = journal.received;
        Ok(Self {
            journal,
            path,
            journal_path,
            file: Arc::new(file),
            lock,
            buffer: Vec::new(),
            written: (len, hasher.clone()),
            is_writing: false,
            hasher,
            len,
            noted: Instant::now(),
            resumed: len > 0,
            announced: false,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether it goes on from bytes of an earlier run.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
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
        self.journal = journal;
        self.announced = true;
        // The journal comes first: bytes without one are worthless, the reverse is an empty start.
        self.note()
    }

    pub(super) async fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.buffer.extend_from_slice(bytes);
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        if self.buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        self.write().await?;
        let unnoted = self.len - self.journal.received;
        if unnoted >= JOURNAL_BYTES || self.noted.elapsed() >= JOURNAL_INTERVAL {
            self.note()?;
        }
        Ok(())
    }

    /// Writes what was received and notes it.
    pub(super) async fn flush(&mut self) -> Result<(), HubError> {
        self.write().await?;
        if self.len > self.journal.received { self.note() } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<(), HubError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let lock = Arc::clone(&self.lock);
        let mut buffer = std::mem::take(&mut self.buffer);
        // Stays so if this future is dropped on the way: then nobody knows how much was written.
        self.is_writing = true;
        self.buffer = blocking(move || {
            (&*file).write_all(&buffer).map_err(|e| HubError::io("write", path, e))?;
            buffer.clear();
            drop(lock);
            Ok(buffer)
        })
        .await?;
        self.is_writing = false;
        self.written = (self.len, self.hasher.clone());
        Ok(())
    }

    /// Brings the journal up to date with what has been written.
    fn note(&mut self) -> Result<(), HubError> {
        let (len, hasher) = &self.written;
        self.journal.received = *len;
        self.journal.received_sha256 = hex(&hasher.clone().finalize());
        self.noted = Instant::now();
        let text = serde_json::to_vec(&self.journal)
            .map_err(|e| HubError::failed("writing a journal", e.to_string()))?;
        write_whole(&self.journal_path, &text)
    }

    /// Empties the part and forgets its journal.
    pub(super) async fn discard(&mut self) -> Result<(), HubError> {
        self.buffer.clear();
        let emptied = self.file.set_len(0);
        emptied.map_err(|e| HubError::io("empty", &self.path, e))?;
        // It may not exist; without bytes beside it, it does no harm either.
        let _ = fs::remove_file(&self.journal_path).await;
        (self.hasher, self.len, self.written) = (Sha256::new(), 0, (0, Sha256::new()));
        (self.announced, self.resumed) = (false, false);
        self.journal = Journal::default();
        Ok(())
    }

    pub(super) fn sha256(&self) -> String {
        hex(&self.hasher.clone().finalize())
    }

    /// Gives the complete file its name.
    pub(super) async fn finish(mut self, dest: &Path) -> Result<(), HubError> {
        self.write().await?;
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        blocking(move || file.sync_all().map_err(|e| HubError::io("write", path, e))).await?;
        let renamed = fs::rename(&self.path, dest).await;
        renamed.map_err(|e| HubError::io("create", dest, e))?;
        // Neither part nor journal is left for the drop to look after.
        self.len = 0;
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
            return;
        }
        // A download that is given up is noted as far as it was written, so that the next one can go on.
        // Should that fail, it goes on from the last note.
        if !self.is_writing && (&*self.file).write_all(&self.buffer).is_ok() {
            self.written = (self.len, self.hasher.clone());
        }
        let _ = self.note();
    }
}

/// The checksum of what `journal` says was received, if that is what `file` holds; what follows is cut
/// off. Leaves `file` at its end.
fn read_back(mut file: &File, journal: &Journal) -> Option<Sha256> {
    let is_consistent = journal.received > 0
        && journal.total.is_none_or(|total| journal.received <= total)
        && file.metadata().ok()?.len() >= journal.received;
    if !is_consistent {
        return None;
    }
    file.seek(SeekFrom::Start(0)).ok()?;
    let (hasher, len) = hash(file.take(journal.received)).ok()?;
    if len != journal.received || hex(&hasher.clone().finalize()) != journal.received_sha256 {
        return None;
    }
    file.set_len(len).ok()?;
    Some(hasher)
}

/// Checksum of a file, in hexadecimal.
pub(super) async fn file_sha256(path: PathBuf) -> Result<String, HubError> {
    blocking(move || {
        let failed = |e| HubError::io("read", &path, e);
        let (hasher, _) = hash(File::open(&path).map_err(failed)?).map_err(failed)?;
        Ok(hex(&hasher.finalize()))
    })
    .await
}

/// Checksum so far and length of what can be read.
fn hash(mut from: impl Read) -> std::io::Result<(Sha256, u64)> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut hasher, mut len) = (Sha256::new(), 0);
    loop {
        let count = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok((hasher, len));
        };
        hasher.update(bytes);
        len += count as u64;
    }
}

/// Runs work on files where it may block. Downloads are few, so their threads are.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    let task = tokio::task::spawn_blocking(work);
    task.await.map_err(|e| HubError::failed("work on a file", e.to_string()))?
}
