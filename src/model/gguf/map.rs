//! The bytes of one model file: mapped, or read into memory.
//!
//! The only unsafe code of the model layer; see the module documentation of [`super`] for what
//! happens when a mapped file shrinks.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use super::{Access, GgufError};

/// A whole file as a byte slice.
#[derive(Debug)]
pub(in crate::model) enum Bytes {
    Mapped(Mmap),
    Heap(Vec<u8>),
}

impl Bytes {
    /// Opens `path`, which must be a regular file (or a link to one).
    pub(in crate::model) fn open(path: &Path, access: Access) -> Result<Self, GgufError> {
        // Asked before opening: opening a pipe would block until somebody writes to it.
        let found = fs::metadata(path).map_err(|e| GgufError::io("open", path, e))?;
        if !found.is_file() {
            return Err(GgufError::NotAFile { path: path.into() });
        }
        let mut file = File::open(path).map_err(|e| GgufError::io("open", path, e))?;
        let opened = file.metadata().map_err(|e| GgufError::io("stat", path, e))?;
        if !opened.is_file() {
            return Err(GgufError::NotAFile { path: path.into() });
        }
        if opened.len() == 0 {
            return Ok(Self::Heap(Vec::new()));
        }
        let bytes = match access {
            Access::Read => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(|e| GgufError::io("read", path, e))?;
                Self::Heap(bytes)
            }
            Access::Map => {
                // SAFETY: the mapping is private and read-only, and no one holds a reference into
                // it beyond this struct's life. Another process may still write to or truncate the
                // file: changed bytes are only ever read as plain numbers, behind checks made on
                // copies, and truncation is documented as fatal in the module above.
                let map = unsafe { Mmap::map(&file) };
                Self::Mapped(map.map_err(|e| GgufError::io("map", path, e))?)
            }
        };
        let after = file.metadata().map_err(|e| GgufError::io("stat", path, e))?.len();
        if after != bytes.len() as u64 || after != opened.len() {
            return Err(GgufError::Changed { path: path.into(), before: opened.len(), after });
        }
        Ok(bytes)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Heap(bytes) => bytes,
        }
    }
}
