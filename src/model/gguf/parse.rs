//! From bytes to metadata and tensor descriptions; every length is checked before it is used.

use std::collections::HashSet;

use kolosal_kernels::quant::GgmlType;

use super::value::id;
use super::{Array, DEFAULT_ALIGNMENT, GgufError, MAGIC, Metadata, Value};

/// What a file may ask for at most. Real files stay far below each of these.
pub mod limits {
    /// Bytes of header, metadata and tensor descriptions together.
    pub const METADATA_BYTES: usize = 1 << 29;
    /// Bytes of one string. Embedded tokenizer files reach some tens of MB.
    pub const STRING_BYTES: u64 = 1 << 28;
    /// Bytes of a metadata key, as the format says.
    pub const KEY_BYTES: u64 = u16::MAX as u64;
    /// Bytes of a tensor name. The format says 64.
    pub const NAME_BYTES: u64 = 256;
    /// Metadata keys in one file.
    pub const KEYS: u64 = 1 << 16;
    /// Tensors in one file.
    pub const TENSORS: u64 = 1 << 17;
    /// Elements of one array.
    pub const ARRAY_LEN: u64 = 1 << 27;
    /// Arrays inside arrays.
    pub const ARRAY_DEPTH: usize = 4;
    /// Dimensions of a tensor.
    pub const DIMS: u32 = 4;
    /// `general.alignment`.
    pub const ALIGNMENT: u64 = 1 << 16;
    /// Files of a split model.
    pub const SHARDS: u32 = 1 << 10;
}

/// Shortest entry: a key's length and one byte, a type, one byte of value.
const KEY_VALUE_BYTES_MIN: u64 = 8 + 1 + 4 + 1;
/// Shortest tensor description: name, number of dimensions, one dimension, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Everything before the tensor data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Described>,
    pub(super) alignment: u64,
}

/// A tensor whose place in the file has been checked.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) name: String,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) ty: GgmlType,
    /// From the start of the file.
    pub(super) start: usize,
    pub(super) len: usize,
}

/// Reads and checks all that precedes the tensor data of a file of `file_len` bytes, of which `head` are
/// the first. Where the head ends early, it is said to be truncated although enough bytes remain.
pub(super) fn parse(head: &[u8], file_len: usize) -> Result<Header, GgufError> {
    let mut cursor = Cursor { bytes: head, file_len, at: 0 };
    let version = read_version(&mut cursor)?;
    let num_tensors = cursor.count("number of tensors", limits::TENSORS, TENSOR_BYTES_MIN)?;
    let num_keys = cursor.count("number of metadata keys", limits::KEYS, KEY_VALUE_BYTES_MIN)?;
    let mut metadata = Metadata::new();
    for _ in 0..num_keys {
        let key = cursor.text("metadata key", limits::KEY_BYTES)?;
        let ty = cursor.u32(&key)?;
        let value = read_value(&mut cursor, &key, ty)?;
        metadata.add(key, value)?;
    }
    let alignment = alignment(&metadata)?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..num_tensors {
        let tensor = read_tensor(&mut cursor)?;
        if !names.insert(tensor.name.clone()) {
            return Err(GgufError::Duplicate { what: "tensor", name: tensor.name });
        }
        tensors.push(tensor);
    }
    place(&mut tensors, cursor.at, alignment, file_len)?;
    Ok(Header { version, metadata, tensors, alignment })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let magic = cursor.bytes.get(..MAGIC.len().min(cursor.bytes.len())).unwrap_or_default();
    if magic != MAGIC {
        return Err(GgufError::NotGguf);
    }
    cursor.at = MAGIC.len();
    match cursor.u32("version")? {
        version @ (2 | 3) => Ok(version),
        version if matches!(version.swap_bytes(), 1..=3) => Err(GgufError::BigEndian),
        version => Err(GgufError::Version { version }),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.u64(KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(GgufError::malformed(KEY, format!("{alignment} is not a power of two")));
    }
    at_most(KEY, alignment, limits::ALIGNMENT)?;
    Ok(alignment)
}

fn read_value(cursor: &mut Cursor<'_>, key: &str, ty: u32) -> Result<Value, GgufError> {
    Ok(match ty {
        id::U8 => Value::U8(u8::from_le_bytes(cursor.array(key)?)),
        id::I8 => Value::I8(i8::from_le_bytes(cursor.array(key)?)),
        id::U16 => Value::U16(u16::from_le_bytes(cursor.array(key)?)),
        id::I16 => Value::I16(i16::from_le_bytes(cursor.array(key)?)),
        id::U32 => Value::U32(u32::from_le_bytes(cursor.array(key)?)),
        id::I32 => Value::I32(i32::from_le_bytes(cursor.array(key)?)),
        id::U64 => Value::U64(u64::from_le_bytes(cursor.array(key)?)),
        id::I64 => Value::I64(i64::from_le_bytes(cursor.array(key)?)),
        id::F32 => Value::F32(f32::from_le_bytes(cursor.array(key)?)),
        id::F64 => Value::F64(f64::from_le_bytes(cursor.array(key)?)),
        id::BOOL => Value::Bool(to_bool(key, cursor.array::<1>(key)?[0])?),
        id::STRING => Value::String(cursor.string(key, limits::STRING_BYTES)?.into()),
        id::ARRAY => Value::Array(read_array(cursor, key, 1)?),
        other => return Err(GgufError::malformed(key, format!("unknown value type {other}"))),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<Array, GgufError> {
    if depth > limits::ARRAY_DEPTH {
        let problem = format!("arrays nest deeper than {}", limits::ARRAY_DEPTH);
        return Err(GgufError::malformed(key, problem));
    }
    let ty = cursor.u32(key)?;
    let element_bytes_min = match ty {
        id::U8 | id::I8 | id::BOOL => 1,
        id::U16 | id::I16 => 2,
        id::U32 | id::I32 | id::F32 => 4,
        id::U64 | id::I64 | id::F64 | id::STRING => 8,
        id::ARRAY => 4 + 8,
        other => return Err(GgufError::malformed(key, format!("unknown element type {other}"))),
    };
    let len = cursor.count(key, limits::ARRAY_LEN, element_bytes_min)?;
    Ok(match ty {
        id::U8 => Array::U8(cursor.numbers(key, len, u8::from_le_bytes)?),
        id::I8 => Array::I8(cursor.numbers(key, len, i8::from_le_bytes)?),
        id::U16 => Array::U16(cursor.numbers(key, len, u16::from_le_bytes)?),
        id::I16 => Array::I16(cursor.numbers(key, len, i16::from_le_bytes)?),
        id::U32 => Array::U32(cursor.numbers(key, len, u32::from_le_bytes)?),
        id::I32 => Array::I32(cursor.numbers(key, len, i32::from_le_bytes)?),
        id::U64 => Array::U64(cursor.numbers(key, len, u64::from_le_bytes)?),
        id::I64 => Array::I64(cursor.numbers(key, len, i64::from_le_bytes)?),
        id::F32 => Array::F32(cursor.numbers(key, len, f32::from_le_bytes)?),
        id::F64 => Array::F64(cursor.numbers(key, len, f64::from_le_bytes)?),
        id::BOOL => {
            let bytes = cursor.take(key, len)?;
            Array::Bool(bytes.iter().map(|&b| to_bool(key, b)).collect::<Result<_, _>>()?)
        }
        id::STRING => {
            let mut strings = Vec::with_capacity(len);
            for _ in 0..len {
                strings.push(cursor.string(key, limits::STRING_BYTES)?.into());
            }
            Array::String(strings)
        }
        _ => {
            // Grown as elements arrive: their minimum size says little about nested arrays.
            let mut arrays = Vec::new();
            for _ in 0..len {
                arrays.push(read_array(cursor, key, depth + 1)?);
            }
            Array::Array(arrays)
        }
    })
}

fn to_bool(key: &str, byte: u8) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(GgufError::malformed(key, format!("{other} is not a bool"))),
    }
}

/// Reads one tensor description; `start` is still relative to the tensor data.
fn read_tensor(cursor: &mut Cursor<'_>) -> Result<Described, GgufError> {
    let name = cursor.text("tensor name", limits::NAME_BYTES)?;
    let num_dims = cursor.u32(&name)?;
    if num_dims == 0 || num_dims > limits::DIMS {
        let problem = format!("{num_dims} dimensions; 1 to {} are allowed", limits::DIMS);
        return Err(GgufError::tensor(name, problem));
    }
    let mut shape = Vec::with_capacity(num_dims as usize);
    for _ in 0..num_dims {
        let dim = u64::from_le_bytes(cursor.array(&name)?);
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 && i64::try_from(dim).is_ok() => shape.push(dim),
            _ => return Err(GgufError::tensor(name, format!("a dimension of {dim}"))),
        }
    }
    shape.reverse();
    let type_id = cursor.u32(&name)?;
    let start = u64::from_le_bytes(cursor.array(&name)?);
    let Some(ty) = GgmlType::from_id(type_id) else {
        return Err(GgufError::UnknownType { tensor: name, id: type_id });
    };
    match (byte_len(ty, &shape), usize::try_from(start)) {
        (Ok(len), Ok(start)) => Ok(Described { name, shape, ty, start, len }),
        (Err(problem), _) => Err(GgufError::tensor(name, problem)),
        (_, Err(_)) => Err(GgufError::tensor(name, format!("an offset of {start}"))),
    }
}

/// Size in bytes of a tensor whose dimensions are outermost first.
pub(super) fn byte_len(ty: GgmlType, shape: &[usize]) -> Result<usize, String> {
    let too_big = || format!("dimensions {shape:?} overflow");
    let (&columns, outer) = shape.split_last().ok_or("no dimensions")?;
    let rows = outer.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(too_big)?;
    rows.checked_mul(columns).filter(|&n| i64::try_from(n).is_ok()).ok_or_else(too_big)?;
    let row = ty.row_bytes(columns).ok_or_else(|| {
        format!("rows of {columns} values do not fit blocks of {} ({})", ty.block_len(), ty.name())
    })?;
    row.checked_mul(rows).ok_or_else(too_big)
}

/// Turns relative offsets into places in the file: aligned, inside it, and disjoint.
fn place(
    tensors: &mut [Described],
    header_end: usize,
    alignment: u64,
    file_len: usize,
) -> Result<(), GgufError> {
    // The alignment is at most 2^16 and the header lies inside the file, so this cannot overflow.
    let data_start = header_end.next_multiple_of(alignment as usize);
    for tensor in tensors.iter_mut() {
        let offset = tensor.start as u64;
        if !offset.is_multiple_of(alignment) {
            let problem = format!("offset {offset} is not a multiple of {alignment}");
            return Err(GgufError::tensor(&tensor.name, problem));
        }
        let start = data_start.checked_add(tensor.start);
        let end = start.and_then(|s| s.checked_add(tensor.len)).filter(|&end| end <= file_len);
        let (Some(start), Some(_)) = (start, end) else {
            let problem = format!(
                "{} bytes at offset {offset} of the data do not lie inside the file, \
                 whose data section has {} bytes",
                tensor.len,
                file_len.saturating_sub(data_start),
            );
            return Err(GgufError::tensor(&tensor.name, problem));
        };
        tensor.start = start;
    }
    let mut order: Vec<&Described> = tensors.iter().collect();
    order.sort_by_key(|t| t.start);
    for pair in order.windows(2) {
        if let [a, b] = pair
            && a.start + a.len > b.start
        {
            return Err(GgufError::tensor(&b.name, format!("overlaps tensor {:?}", a.name)));
        }
    }
    Ok(())
}

fn at_most(what: &str, value: u64, limit: u64) -> Result<(), GgufError> {
    if value > limit {
        return Err(GgufError::Limit { what: what.into(), value, limit });
    }
    Ok(())
}

/// A position in the file.
struct Cursor<'a> {
    /// The first of the file's bytes.
    bytes: &'a [u8],
    file_len: usize,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next `len` bytes; `what` names them in errors.
    fn take(&mut self, what: &str, len: usize) -> Result<&'a [u8], GgufError> {
        let remaining = self.file_len - self.at;
        if len <= remaining {
            let end = (self.at + len) as u64;
            at_most("size of the metadata", end, limits::METADATA_BYTES as u64)?;
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(taken) = rest.get(..len) else {
            return Err(GgufError::Truncated {
                what: what.into(),
                offset: self.at as u64,
                needed: len as u64,
                remaining: remaining as u64,
            });
        };
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let bytes = self.take(what, N)?;
        Ok(*bytes.first_chunk().expect("take returns as many bytes as asked: this is a bug"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A count of things of at least `bytes_min` bytes each, all of which must still be in the file.
    fn count(&mut self, what: &str, limit: u64, bytes_min: u64) -> Result<usize, GgufError> {
        let count = u64::from_le_bytes(self.array(what)?);
        at_most(what, count, limit)?;
        let remaining = (self.file_len - self.at) as u64;
        let needed = count.saturating_mul(bytes_min);
        if needed > remaining {
            let (what, offset) = (what.into(), self.at as u64);
            return Err(GgufError::Truncated { what, offset, needed, remaining });
        }
        Ok(count as usize)
    }

    fn string(&mut self, what: &str, limit: u64) -> Result<&'a [u8], GgufError> {
        let len = u64::from_le_bytes(self.array(what)?);
        at_most(&format!("length of {what}"), len, limit)?;
        self.take(what, len as usize)
    }

    /// A key or name: UTF-8 and not empty.
    fn text(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let bytes = self.string(what, limit)?;
        match std::str::from_utf8(bytes) {
            Ok("") => Err(GgufError::malformed(what, "empty")),
            Ok(text) => Ok(text.into()),
            Err(e) => Err(GgufError::malformed(what, format!("not UTF-8: {e}"))),
        }
    }

    fn numbers<T, const N: usize>(
        &mut self,
        what: &str,
        len: usize,
        from: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        // `count` has shown that `len * N` bytes remain, so the product cannot overflow.
        let (chunks, _) = self.take(what, len * N)?.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| from(chunk)).collect())
    }
}
