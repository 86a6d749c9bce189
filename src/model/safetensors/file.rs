//! One safetensors file: the length of a JSON header, the header, the tensors' bytes.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use kolosal_kernels::quant::GgmlType;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::model::gguf::{Access, Bytes, GgufError, limits};

/// Bytes of a header, as the format says.
const MAX_HEADER: u64 = 100_000_000;

/// A file whose header has been checked: names are unique, tensors lie inside the file and apart.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
    pub(super) tensors: Vec<Entry>,
}

/// A tensor of a file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: String,
    /// `None`: a type that no weights have.
    pub(super) ty: Option<GgmlType>,
    /// Outermost first; 1 to 4 dimensions, none of them zero.
    pub(super) shape: Vec<usize>,
    /// From the start of the file.
    pub(super) start: usize,
    pub(super) len: usize,
}

impl File {
    pub(super) fn open(path: PathBuf, access: Access) -> Result<Self, GgufError> {
        let bytes = Bytes::open(&path, access)?;
        let tensors = head(&bytes)
            .and_then(|head| parse(&head, bytes.len()))
            .map_err(|source| GgufError::Shard { path: path.clone(), source: Box::new(source) })?;
        Ok(Self { path, bytes, tensors })
    }

    /// The bytes of one of this file's tensors.
    pub(super) fn data(&self, entry: &Entry) -> Result<Vec<u8>, GgufError> {
        let mut data = Vec::new();
        self.bytes.read(entry.start, entry.len, &mut data)?;
        Ok(data)
    }
}

/// The bytes of a file before its tensors', as far as there are.
fn head(bytes: &Bytes) -> Result<Vec<u8>, GgufError> {
    let mut head = Vec::new();
    bytes.read(0, bytes.len().min(8), &mut head)?;
    if let Some(len) = head.first_chunk::<8>() {
        let len = u64::from_le_bytes(*len).min(MAX_HEADER) as usize;
        bytes.read(0, bytes.len().min(8 + len), &mut head)?;
    }
    Ok(head)
}

/// A tensor as the header describes it.
#[derive(serde::Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in order, twice named ones included: a map would hide them.
struct Header(Vec<(String, Described)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Checks the header of a file of `file_len` bytes, which is within the first of them.
fn parse(bytes: &[u8], file_len: usize) -> Result<Vec<Entry>, GgufError> {
    let truncated = |needed: u64, offset: u64| GgufError::Truncated {
        what: "safetensors header".to_owned(),
        offset,
        needed,
        remaining: (file_len as u64).saturating_sub(offset),
    };
    let (len, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated(8, 0))?;
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        let what = "length of safetensors header".to_owned();
        return Err(GgufError::Limit { what, value: len, limit: MAX_HEADER });
    }
    let header = rest.get(..len as usize).ok_or_else(|| truncated(len, 8))?;
    let Header(described) = serde_json::from_slice(header)
        .map_err(|error| GgufError::malformed("safetensors header", error.to_string()))?;
    if described.len() as u64 > limits::TENSORS {
        let (value, limit) = (described.len() as u64, limits::TENSORS);
        return Err(GgufError::Limit { what: "number of tensors".into(), value, limit });
    }
    let base = 8 + header.len();
    let mut names = HashSet::new();
    let mut entries = Vec::with_capacity(described.len());
    for (name, tensor) in described {
        if !names.insert(name.clone()) {
            return Err(GgufError::Duplicate { what: "tensor", name });
        }
        entries.push(entry(name, &tensor, base, file_len - base)?);
    }
    apart(&entries)?;
    Ok(entries)
}

fn entry(name: String, tensor: &Described, base: usize, data: usize) -> Result<Entry, GgufError> {
    let bad = |problem: String| GgufError::tensor(&name, problem);
    if name.is_empty() || name.len() as u64 > limits::NAME_BYTES {
        let (value, limit) = (name.len() as u64, limits::NAME_BYTES);
        return Err(GgufError::Limit { what: "length of tensor name".into(), value, limit });
    }
    let Some((ty, width)) = dtype(&tensor.dtype) else {
        return Err(bad(format!("unknown type {:?}", tensor.dtype)));
    };
    // A scalar is a vector of one.
    let shape = if tensor.shape.is_empty() { &[1][..] } else { &tensor.shape };
    if shape.len() > limits::DIMS as usize || shape.contains(&0) {
        return Err(bad(format!("shape {shape:?}")));
    }
    let values = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let expected = values.and_then(|values| values.checked_mul(width));
    let (start, end) = tensor.data_offsets;
    let len = end.checked_sub(start).filter(|_| end <= data as u64);
    let Some(len) = len else {
        return Err(bad(format!("bytes {start} to {end} of {data}")));
    };
    if expected != Some(len) {
        return Err(bad(format!("shape {shape:?} of {} does not take {len} bytes", tensor.dtype)));
    }
    Ok(Entry {
        dtype: tensor.dtype.clone(),
        ty,
        shape: shape.iter().map(|&dim| dim as usize).collect(),
        start: base + start as usize,
        len: len as usize,
        name,
    })
}

/// Fails if two tensors share bytes.
fn apart(entries: &[Entry]) -> Result<(), GgufError> {
    let mut places: Vec<&Entry> = entries.iter().collect();
    places.sort_unstable_by_key(|entry| entry.start);
    for pair in places.windows(2) {
        if pair[0].start + pair[0].len > pair[1].start {
            let problem = format!("it overlaps with {:?}", pair[1].name);
            return Err(GgufError::tensor(&pair[0].name, problem));
        }
    }
    Ok(())
}

/// Our type for weights, and bytes of a value.
fn dtype(name: &str) -> Option<(Option<GgmlType>, u64)> {
    Some(match name {
        "F32" => (Some(GgmlType::F32), 4),
        "F16" => (Some(GgmlType::F16), 2),
        "BF16" => (Some(GgmlType::BF16), 2),
        "F64" | "I64" | "U64" => (None, 8),
        "I32" | "U32" => (None, 4),
        "I16" | "U16" => (None, 2),
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => (None, 1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn a_good_header_is_read() {
        let header = r#"{"__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
            "c": {"dtype": "I64", "shape": [1], "data_offsets": [26, 34]}}"#;
        let entries = parse(&file(header, 34), header.len() + 8 + 34).unwrap();
        let base = 8 + header.len();
        let found: Vec<_> = entries
            .iter()
            .map(|e| (e.name.as_str(), e.ty, e.shape.clone(), e.start - base, e.len))
            .collect();
        assert_eq!(
            found,
            [
                ("a", Some(GgmlType::F32), vec![2, 3], 0, 24),
                ("b", Some(GgmlType::BF16), vec![1], 24, 2),
                ("c", None, vec![1], 26, 8),
            ]
        );
    }

    #[test]
    fn hostile_headers_are_errors() {
        let tensor = |name: &str, dtype: &str, shape: &str, offsets: &str| {
            format!(
                r#""{name}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}"#
            )
        };
        let one = |dtype, shape, offsets| format!("{{{}}}", tensor("a", dtype, shape, offsets));
        let two = |name, offsets| {
            let first = tensor("a", "F32", "[2]", "[0, 8]");
            format!("{{{first}, {}}}", tensor(name, "F32", "[2]", offsets))
        };
        let cases = [
            (file("[]", 0), "invalid type"),
            (file("{", 0), "EOF"),
            (file(&one("F32", "[2]", "[0, 7]"), 8), "does not take 7 bytes"),
            (file(&one("F32", "[2]", "[8, 0]"), 8), "bytes 8 to 0"),
            (file(&one("F32", "[2]", "[0, 8]"), 7), "bytes 0 to 8 of 7"),
            (file(&one("F32", "[2, 0]", "[0, 0]"), 8), "shape [2, 0]"),
            (file(&one("F32", "[1, 1, 1, 1, 1]", "[0, 4]"), 8), "shape [1, 1, 1, 1, 1]"),
            (file(&one("F32", "[4294967296, 4294967296]", "[0, 0]"), 8), "does not take 0 bytes"),
            (file(&one("F32", "[18446744073709551615]", "[0, 8]"), 8), "does not take 8 bytes"),
            (file(&one("F32", "[-1]", "[0, 8]"), 8), "invalid value"),
            (file(&one("F3", "[2]", "[0, 8]"), 8), "unknown type"),
            (file(&two("a", "[8, 16]"), 16), "occurs twice"),
            (file(&two("b", "[4, 12]"), 16), "overlaps"),
            (vec![1, 2, 3], "needs 8 bytes"),
            (u64::MAX.to_le_bytes().to_vec(), "the limit is 100000000"),
            (100u64.to_le_bytes().to_vec(), "needs 100 bytes"),
        ];
        for (bytes, expected) in cases {
            let error = parse(&bytes, bytes.len()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}: expected {expected}");
        }
    }
}
