//! GGUF: a hardened reader and a writer.
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
//! # Files that change
//!
//! Files are read and never mapped, so that one which shrinks is an error and not the end of the process.
//! [`Gguf::check_unchanged`] tells whether a file was written to since it was opened; loaders ask at the
//! end, when nothing of the file is needed any more. One that was replaced by another of its name is read
//! to its end as it was. Where model files may be written to, open with [`Access::AtOnce`].

mod bytes;
mod error;
mod file;
mod metadata;
mod parse;
mod split;
mod tensor;
mod value;
mod writer;

pub use bytes::Access;
pub(in crate::model) use bytes::Bytes;
pub use error::GgufError;
pub use file::Gguf;
pub(in crate::model) use file::{Composed, Place};
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
