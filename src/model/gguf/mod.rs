//! GGUF: a hardened, memory-mapped reader and a writer.
//!
//! A model file is hostile until checked. The reader therefore keeps three promises:
//!
//! - it never panics and never reads outside the file, whatever the bytes say;
//! - it allocates no more than a small multiple of the metadata that the file really holds, and the
//!   metadata itself has a limit ([`limits::METADATA_BYTES`]);
//! - a file that opens has unique keys and names, known types, and tensors that are aligned, inside
//!   the file and disjoint.
//!
//! Strings are kept as the bytes in the file: vocabularies hold entries that are not UTF-8 or that
//! contain NUL.
//!
//! # A mapped file must not shrink
//!
//! Reading a page of a mapping whose file was truncated raises `SIGBUS`, which ends the process; no
//! check in a program can rule that out. [`Gguf::open`] compares the size before and after mapping,
//! [`Gguf::check_unchanged`] does so again at any time, and our own writers replace files by rename
//! instead of writing into them. Where model files may change under a running server, open with
//! [`Access::Read`].

mod error;
mod file;
mod map;
mod metadata;
mod parse;
mod split;
mod tensor;
mod value;
mod writer;

pub use error::GgufError;
pub use file::{Access, Gguf};
pub(in crate::model) use file::{Composed, Place};
pub(in crate::model) use map::Bytes;
pub use metadata::Metadata;
pub use parse::limits;
pub use split::parse_name as parse_split_name;
pub use tensor::TensorInfo;
pub use value::{Array, Value};
pub use writer::Writer;

/// First four bytes of a GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensor data when the file names none.
pub const DEFAULT_ALIGNMENT: u64 = 32;
