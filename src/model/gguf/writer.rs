//! Writes GGUF files: for requantisation and for tests.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use kolosal_kernels::quant::GgmlType;

use super::parse::{byte_len, limits};
use super::{Array, DEFAULT_ALIGNMENT, GgufError, MAGIC, Metadata, Value};

/// A GGUF file in the making; tensor data may be borrowed, for example from an open model.
#[derive(Clone, Debug, Default)]
pub struct Writer<'a> {
    metadata: Metadata,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Clone, Debug)]
struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    ty: GgmlType,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Writer<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts from another file's metadata.
    pub fn with_metadata(metadata: Metadata) -> Self {
        Self { metadata, tensors: Vec::new() }
    }

    /// Sets a metadata key. `general.alignment` takes effect, too.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.metadata.set(key, value);
        self
    }

    /// Adds a tensor; `shape` is outermost first and `bytes` must be as long as it says.
    pub fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        ty: GgmlType,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Result<&mut Self, GgufError> {
        let bytes = bytes.into();
        let expected = byte_len(ty, shape).map_err(|problem| GgufError::tensor(name, problem))?;
        if expected != bytes.len() {
            let problem = format!("{} bytes given, {expected} expected", bytes.len());
            return Err(GgufError::tensor(name, problem));
        }
        if shape.contains(&0) || shape.len() > limits::DIMS as usize {
            return Err(GgufError::tensor(name, format!("shape {shape:?}")));
        }
        if name.is_empty() || name.len() as u64 > limits::NAME_BYTES {
            let (value, limit) = (name.len() as u64, limits::NAME_BYTES);
            return Err(GgufError::Limit { what: "length of tensor name".into(), value, limit });
        }
        if self.tensors.iter().any(|t| t.name == name) {
            return Err(GgufError::Duplicate { what: "tensor", name: name.into() });
        }
        self.tensors.push(Tensor { name: name.into(), shape: shape.into(), ty, bytes });
        Ok(self)
    }

    /// Writes the file at `path`, replacing an old one by rename: it may be mapped by somebody.
    pub fn write(&self, path: &Path) -> Result<(), GgufError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        let written = File::create(&part).and_then(|file| {
            let mut out = BufWriter::new(file);
            self.write_to(&mut out)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            fs::rename(&part, path)
        });
        written.map_err(|e| {
            // The part is ours alone; failing to remove it adds nothing to the first error.
            let _ = fs::remove_file(&part);
            GgufError::io("write", path, e)
        })
    }

    /// The file as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_to(&mut out).expect("writing to memory does not fail: this is a bug");
        out
    }

    /// Writes the file to `out`, as version 3.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let alignment = match self.metadata.u64("general.alignment") {
            Ok(Some(alignment)) if alignment.is_power_of_two() => alignment,
            _ => DEFAULT_ALIGNMENT,
        };
        let header = self.header(alignment);
        let mut at = header.len() as u64;
        out.write_all(&header)?;
        for tensor in &self.tensors {
            pad(out, &mut at, alignment)?;
            out.write_all(&tensor.bytes)?;
            at += tensor.bytes.len() as u64;
        }
        pad(out, &mut at, alignment)
    }

    fn header(&self, alignment: u64) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(3u32.to_le_bytes());
        put_len(&mut out, self.tensors.len());
        put_len(&mut out, self.metadata.len());
        for (key, value) in self.metadata.iter() {
            put_string(&mut out, key.as_bytes());
            out.extend(value.id().to_le_bytes());
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(&mut out, tensor.name.as_bytes());
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                put_len(&mut out, dim);
            }
            out.extend(tensor.ty.id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes.len() as u64).next_multiple_of(alignment);
        }
        out
    }
}

fn pad(out: &mut impl Write, at: &mut u64, alignment: u64) -> io::Result<()> {
    let padding = at.next_multiple_of(alignment) - *at;
    io::copy(&mut io::Read::take(io::repeat(0), padding), out)?;
    *at += padding;
    Ok(())
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u64).to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.element_id().to_le_bytes());
    put_len(out, array.len());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::U16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::U32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::U64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::F32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::F64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::Bool(v) => v.iter().for_each(|&v| out.push(v.into())),
        Array::String(v) => v.iter().for_each(|v| put_string(out, v)),
        Array::Array(v) => v.iter().for_each(|v| put_array(out, v)),
    }
}
