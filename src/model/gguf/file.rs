//! An open model: one GGUF file or a split set.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use kolosal_kernels::quant::GgmlType;

use super::bytes::{Access, Bytes};
use super::parse::{self, Header};
use super::{GgufError, Metadata, TensorInfo, split};

/// An open GGUF model. See the module documentation for what has been checked.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    /// One per file, as `shards`.
    paths: Vec<PathBuf>,
    shards: Vec<Bytes>,
    alignment: u64,
    wanted: Option<Wanted>,
}

/// Whether what is read is still wanted.
struct Wanted(Box<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wanted")
    }
}

/// A tensor of a model that is put together from files of another format.
pub(in crate::model) struct Composed {
    pub(in crate::model) name: String,
    pub(in crate::model) shape: Vec<usize>,
    pub(in crate::model) ty: GgmlType,
    pub(in crate::model) place: Place,
}

/// Where the bytes of a composed tensor are.
pub(in crate::model) enum Place {
    /// Within the file of this number.
    File {
        file: usize,
        start: usize,
        len: usize,
    },
    Memory(Vec<u8>),
}

/// One file, opened and parsed.
struct Part {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
}

impl Gguf {
    /// Opens the file at `path` and, for any file of a split set (`…-00001-of-00003.gguf`), all its
    /// siblings.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::open_with(path, Access::OnDemand)
    }

    /// Like [`Gguf::open`], with a choice of access.
    pub fn open_with(path: &Path, access: Access) -> Result<Self, GgufError> {
        let part = open_part(path, access)?;
        let Some(set) = split::shards_of(path, &part.header.metadata)? else {
            return Self::assemble(vec![part]);
        };
        drop(part);
        let mut parts = Vec::new();
        for (idx, path) in set.paths.iter().enumerate() {
            let in_shard =
                |source| GgufError::Shard { path: path.clone(), source: Box::new(source) };
            if !path.exists() {
                let (number, total) = (idx + 1, set.paths.len());
                let problem = format!("file {number} of {total} is missing: {}", path.display());
                return Err(GgufError::Split(problem));
            }
            let part = open_part(path, access).map_err(in_shard)?;
            split::check_shard(&part.header.metadata, idx, set.paths.len()).map_err(in_shard)?;
            parts.push(part);
        }
        let gguf = Self::assemble(parts)?;
        if let Some(expected) = set.num_tensors
            && expected != gguf.tensors.len() as u64
        {
            let found = gguf.tensors.len();
            let problem =
                format!("{found} tensors in all files, split.tensors.count is {expected}");
            return Err(GgufError::Split(problem));
        }
        Ok(gguf)
    }

    /// A model from bytes in memory; split models cannot be opened this way.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        let header = parse::parse(&bytes, bytes.len())?;
        if split::is_split(&header.metadata)? {
            return Err(GgufError::Split("only a part of a split model is given".into()));
        }
        let path = PathBuf::from("<memory>");
        Self::assemble(vec![Part { path, bytes: Bytes::Memory(bytes), header }])
    }

    /// A model from parts; places must lie within their files.
    pub(in crate::model) fn compose(
        metadata: Metadata,
        files: Vec<(PathBuf, Bytes)>,
        tensors: Vec<Composed>,
    ) -> Result<Self, GgufError> {
        let (paths, shards) = files.into_iter().unzip();
        let mut gguf = Self {
            version: 3,
            metadata,
            tensors: Vec::with_capacity(tensors.len()),
            index: HashMap::new(),
            paths,
            shards,
            alignment: super::DEFAULT_ALIGNMENT,
            wanted: None,
        };
        for Composed { name, shape, ty, place } in tensors {
            if gguf.index.insert(name.clone(), gguf.tensors.len()).is_some() {
                return Err(GgufError::Duplicate { what: "tensor", name });
            }
            let (shard, start, len) = match place {
                Place::File { file, start, len } => (file, start, len),
                Place::Memory(bytes) => {
                    let len = bytes.len();
                    gguf.shards.push(Bytes::Memory(bytes));
                    (gguf.shards.len() - 1, 0, len)
                }
            };
            if parse::byte_len(ty, &shape) != Ok(len) {
                return Err(GgufError::tensor(name, format!("{len} bytes for shape {shape:?}")));
            }
            gguf.tensors.push(TensorInfo { name, shape, ty, shard, start, len });
        }
        Ok(gguf)
    }

    /// Joins the files of a model; the first one's metadata counts.
    fn assemble(parts: Vec<Part>) -> Result<Self, GgufError> {
        let mut gguf = Self {
            version: 0,
            metadata: Metadata::new(),
            tensors: Vec::new(),
            index: HashMap::new(),
            paths: Vec::new(),
            shards: Vec::new(),
            alignment: super::DEFAULT_ALIGNMENT,
            wanted: None,
        };
        for (shard_idx, Part { path, bytes, header }) in parts.into_iter().enumerate() {
            if shard_idx == 0 {
                gguf.version = header.version;
                gguf.metadata = header.metadata;
                gguf.alignment = header.alignment;
            }
            gguf.paths.push(path);
            gguf.shards.push(bytes);
            for t in header.tensors {
                if gguf.index.insert(t.name.clone(), gguf.tensors.len()).is_some() {
                    return Err(GgufError::Duplicate { what: "tensor", name: t.name });
                }
                gguf.tensors.push(TensorInfo {
                    name: t.name,
                    shape: t.shape,
                    ty: t.ty,
                    shard: shard_idx,
                    start: t.start,
                    len: t.len,
                });
            }
        }
        Ok(gguf)
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).and_then(|&i| self.tensors.get(i))
    }

    /// Lets every read fail from when `wanted` says no on: so a load ends that nobody waits for.
    #[must_use]
    pub fn while_wanted(mut self, wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.wanted = Some(Wanted(Box::new(wanted)));
        self
    }

    /// The bytes of one of this file's tensors, aligned in the file to [`Gguf::alignment`].
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn data(&self, tensor: &TensorInfo) -> Result<Vec<u8>, GgufError> {
        let mut bytes = Vec::new();
        self.read(tensor, 0..tensor.len, &mut bytes)?;
        Ok(bytes)
    }

    /// Puts a part of a tensor's bytes into `into`, in place of what it held.
    ///
    /// # Errors
    /// The file has changed or cannot be read, or there is no memory for the bytes.
    ///
    /// # Panics
    /// If `tensor` belongs to another file, or the part lies outside of it.
    pub fn read(
        &self,
        tensor: &TensorInfo,
        part: Range<usize>,
        into: &mut Vec<u8>,
    ) -> Result<(), GgufError> {
        assert!(part.start <= part.end && part.end <= tensor.len, "{part:?} of {tensor:?}");
        if self.wanted.as_ref().is_some_and(|Wanted(wanted)| !wanted()) {
            return Err(GgufError::Unwanted);
        }
        let shard = self.shards.get(tensor.shard);
        let shard = shard.expect("tensors lie in a file they were read from: this is a bug");
        shard.read(tensor.start + part.start, part.len(), into)
    }

    /// Alignment of the tensor data of the first file.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Size of all files together.
    pub fn file_bytes(&self) -> u64 {
        // Beyond those of files lie tensors that were made from them.
        self.shards.iter().take(self.paths.len()).map(|bytes| bytes.len() as u64).sum()
    }

    /// The files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Fails when a file was written to since it was opened: what was read before may be half old and
    /// half new.
    ///
    /// # Errors
    /// [`GgufError::Changed`] and [`GgufError::Written`], or a file cannot be looked at.
    pub fn check_unchanged(&self) -> Result<(), GgufError> {
        self.shards.iter().try_for_each(Bytes::check_unchanged)
    }
}

/// Bytes of a file that are read at first; vocabularies need more.
const HEAD: usize = 1 << 20;

fn open_part(path: &Path, access: Access) -> Result<Part, GgufError> {
    let bytes = Bytes::open(path, access)?;
    let mut head = Vec::new();
    let mut wanted = HEAD;
    let header = loop {
        bytes.read(0, wanted.min(bytes.len()), &mut head)?;
        match parse::parse(&head, bytes.len()) {
            // The file has what the head lacks.
            Err(GgufError::Truncated { offset, needed, remaining, .. }) if needed <= remaining => {
                wanted = (head.len() * 4).max(offset as usize + needed as usize);
            }
            parsed => break parsed?,
        }
    };
    Ok(Part { path: path.into(), bytes, header })
}
