//! The bytes of one model file: read when they are asked for, or held in memory.
//!
//! Files are read and not mapped: a mapping of a file that shrinks ends the process, whereas reading
//! beyond its end is an error.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::GgufError;

/// How the bytes of a file are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// A tensor is read when it is asked for. The file must not be written to meanwhile, which is
    /// noticed.
    #[default]
    OnDemand,
    /// Read into memory as a whole: takes the file's size in memory, survives changes to the file.
    AtOnce,
}

/// A whole file.
#[derive(Debug)]
pub(in crate::model) enum Bytes {
    File(Opened),
    Memory(Vec<u8>),
}

/// A file as it was when it was opened.
#[derive(Debug)]
pub(in crate::model) struct Opened {
    file: File,
    path: PathBuf,
    len: usize,
    /// Absent where the file system keeps no such times.
    modified: Option<SystemTime>,
}

impl Bytes {
    /// Opens `path`, which must be a regular file (or a link to one).
    pub(in crate::model) fn open(path: &Path, access: Access) -> Result<Self, GgufError> {
        // Asked before opening: opening a pipe would block until somebody writes to it.
        let found = fs::metadata(path).map_err(|e| GgufError::io("open", path, e))?;
        if !found.is_file() {
            return Err(GgufError::NotAFile { path: path.into() });
        }
        let file = File::open(path).map_err(|e| GgufError::io("open", path, e))?;
        let found = file.metadata().map_err(|e| GgufError::io("stat", path, e))?;
        if !found.is_file() {
            return Err(GgufError::NotAFile { path: path.into() });
        }
        let len = found.len().try_into().map_err(|_| GgufError::Memory { wanted: found.len() })?;
        let opened = Opened { file, path: path.into(), len, modified: found.modified().ok() };
        if access == Access::OnDemand {
            return Ok(Self::File(opened));
        }
        let mut bytes = Vec::new();
        opened.read(0, len, &mut bytes)?;
        opened.check_unchanged()?;
        Ok(Self::Memory(bytes))
    }

    pub(in crate::model) fn len(&self) -> usize {
        match self {
            Self::File(opened) => opened.len,
            Self::Memory(bytes) => bytes.len(),
        }
    }

    /// Puts `len` bytes from `start` on into `into`, in place of what it held.
    ///
    /// # Errors
    /// The file has fewer by now or cannot be read, or there is no memory for them.
    pub(in crate::model) fn read(
        &self,
        start: usize,
        len: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), GgufError> {
        match self {
            Self::File(opened) => opened.read(start, len, into),
            Self::Memory(bytes) => {
                let part = bytes.get(start..).and_then(|rest| rest.get(..len));
                let part = part.expect("tensors lie inside their file: this is a bug");
                make_len(into, len)?;
                into.copy_from_slice(part);
                Ok(())
            }
        }
    }

    /// Fails when the file was written to since it was opened.
    pub(in crate::model) fn check_unchanged(&self) -> Result<(), GgufError> {
        match self {
            Self::File(opened) => opened.check_unchanged(),
            Self::Memory(_) => Ok(()),
        }
    }
}

impl Opened {
    fn read(&self, start: usize, len: usize, into: &mut Vec<u8>) -> Result<(), GgufError> {
        make_len(into, len)?;
        match read_at(&self.file, start as u64, into) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.check_unchanged()?;
                Err(GgufError::io("read", &self.path, error))
            }
            Err(error) => Err(GgufError::io("read", &self.path, error)),
        }
    }

    fn check_unchanged(&self) -> Result<(), GgufError> {
        let path = &self.path;
        let found = self.file.metadata().map_err(|e| GgufError::io("stat", path, e))?;
        let (before, after) = (self.len as u64, found.len());
        if before != after {
            return Err(GgufError::Changed { path: path.clone(), before, after });
        }
        if found.modified().ok() != self.modified {
            return Err(GgufError::Written { path: path.clone() });
        }
        Ok(())
    }
}

/// Makes it `len` bytes, of any values.
fn make_len(bytes: &mut Vec<u8>, len: usize) -> Result<(), GgufError> {
    let missing = len.saturating_sub(bytes.len());
    bytes.try_reserve_exact(missing).map_err(|_| GgufError::Memory { wanted: len as u64 })?;
    bytes.resize(len, 0);
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, start: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, start)
}

#[cfg(windows)]
fn read_at(file: &File, mut start: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, into, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                start += read as u64;
                into = &mut into[read..];
            }
        }
    }
    Ok(())
}
