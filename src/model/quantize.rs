//! Quantisation on the way into memory, for files whose matrices are in floats.

use std::fmt;
use std::str::FromStr;
use std::thread::ScopedJoinHandle;

use kolosal_kernels::memory::OutOfMemory;
use kolosal_kernels::quant::{self, GgmlType};

use super::error::ModelError;
use super::gguf::Gguf;
use super::ops::WeightSource;

/// A type that matrices in floats are brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Every one, by name.
const BY_NAME: [(&str, Quantize); 8] = [
    ("q4_0", Quantize::Q4_0),
    ("q4_1", Quantize::Q4_1),
    ("q5_0", Quantize::Q5_0),
    ("q5_1", Quantize::Q5_1),
    ("q8_0", Quantize::Q8_0),
    ("q4_k", Quantize::Q4K),
    ("q5_k", Quantize::Q5K),
    ("q6_k", Quantize::Q6K),
];

/// Small matrices on which much depends: routers of experts, classifiers, types and positions.
const KEPT: [&str; 4] = ["ffn_gate_inp", "cls", "token_types", "position_embd"];

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Quantize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = BY_NAME.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, target)| *target).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            format!("quantize must be one of {}, is {shown:?}", Self::NAMES.join(", "))
        })
    }
}

impl Quantize {
    /// The names of all.
    pub const NAMES: [&'static str; 8] = {
        let mut names = [""; 8];
        let mut at = 0;
        while at < names.len() {
            names[at] = BY_NAME[at].0;
            at += 1;
        }
        names
    };

    /// `q8_0` and so on.
    #[must_use]
    pub fn name(self) -> &'static str {
        BY_NAME.iter().find(|(_, target)| *target == self).map_or("", |(name, _)| name)
    }

    /// For rows of `k` values. Those that do not fall into the large blocks of the K types get the next
    /// better type of small blocks.
    fn ty(self, k: usize) -> GgmlType {
        let (wanted, other) = match self {
            Self::Q4_0 => return GgmlType::Q4_0,
            Self::Q4_1 => return GgmlType::Q4_1,
            Self::Q5_0 => return GgmlType::Q5_0,
            Self::Q5_1 => return GgmlType::Q5_1,
            Self::Q8_0 => return GgmlType::Q8_0,
            Self::Q4K => (GgmlType::Q4K, GgmlType::Q5_0),
            Self::Q5K => (GgmlType::Q5K, GgmlType::Q5_1),
            Self::Q6K => (GgmlType::Q6K, GgmlType::Q8_0),
        };
        if k.is_multiple_of(wanted.block_len()) { wanted } else { other }
    }

    /// Whether a matrix with rows of `k` values is brought to this type.
    pub(super) fn takes(self, name: &str, ty: GgmlType, k: usize) -> bool {
        let is_float = matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        is_float
            && k.is_multiple_of(self.ty(k).block_len())
            && !KEPT.iter().any(|kept| name.contains(kept))
    }

    /// Whether a tensor of a file is one of them.
    fn takes_tensor(self, tensor: &super::gguf::TensorInfo) -> bool {
        let is_matrix = tensor.shape.len() >= 2;
        let k = tensor.shape.last().copied().unwrap_or(0);
        is_matrix && tensor.name.ends_with(".weight") && self.takes(&tensor.name, tensor.ty, k)
    }

    /// Refuses files with nothing to quantise: what is quantised already is not quantised again.
    pub(super) fn check(self, gguf: &Gguf) -> Result<(), ModelError> {
        if gguf.tensors().iter().any(|tensor| self.takes_tensor(tensor)) {
            return Ok(());
        }
        let ty = gguf.tensors().iter().max_by_key(|tensor| tensor.num_bytes());
        let ty = ty.map_or("nothing", |tensor| tensor.ty.name());
        Err(ModelError::Limit(format!("quantize {self}: the weights are {ty}, not floats")))
    }

    /// Bytes of the weights after quantisation.
    pub(super) fn bytes_of(self, gguf: &Gguf) -> u64 {
        let bytes = gguf.tensors().iter().map(|tensor| match self.takes_tensor(tensor) {
            true => {
                let ty = self.ty(tensor.shape.last().copied().unwrap_or(0));
                (tensor.num_elements() / ty.block_len() * ty.block_bytes()) as u64
            }
            false => tensor.num_bytes() as u64,
        });
        bytes.sum()
    }

    /// The matrix in this type, all cores at work.
    pub(super) fn quantise(self, source: &WeightSource<'_>) -> Result<Quantised, ModelError> {
        let (rows, ty) = (source.n, self.ty(source.k));
        let row_bytes = source.bytes.len() / rows;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = rows.div_ceil(threads).max(1) * row_bytes;
        let parts: Vec<Result<Vec<u8>, quant::QuantError>> = std::thread::scope(|scope| {
            let quantise = |bytes: &'_ [u8]| convert(source, ty, bytes, row_bytes);
            let workers: Vec<_> = source
                .bytes
                .chunks(share)
                .map(|bytes| {
                    let thread = std::thread::Builder::new();
                    // Where no thread can be had, this one does the work.
                    thread.spawn_scoped(scope, move || quantise(bytes)).map_err(|_| bytes)
                })
                .collect();
            let unfinished = || Err(quant::QuantError::Unsupported(ty));
            let finish = |worker: Result<ScopedJoinHandle<'_, _>, _>| match worker {
                Ok(worker) => worker.join().unwrap_or_else(|_| unfinished()),
                Err(bytes) => quantise(bytes),
            };
            workers.into_iter().map(finish).collect()
        });
        let wanted = rows * source.k / ty.block_len() * ty.block_bytes();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(wanted).map_err(|_| OutOfMemory { wanted })?;
        for part in parts {
            bytes.extend(part.map_err(|error| match error {
                quant::QuantError::Memory(error) => error.into(),
                error => ModelError::BadTensor {
                    name: source.name.to_owned(),
                    ty: source.ty.name(),
                    problem: error.to_string(),
                },
            })?);
        }
        Ok(Quantised { ty, bytes })
    }
}

/// Rows of floats as blocks, a row at a time.
fn convert(
    source: &WeightSource<'_>,
    ty: GgmlType,
    bytes: &[u8],
    row_bytes: usize,
) -> Result<Vec<u8>, quant::QuantError> {
    let (mut out, mut row) = (Vec::new(), vec![0f32; source.k]);
    let wanted = bytes.len() / row_bytes * source.k / ty.block_len() * ty.block_bytes();
    let refused = quant::QuantError::Memory(OutOfMemory { wanted });
    out.try_reserve_exact(wanted).map_err(|_| refused)?;
    for bytes in bytes.chunks_exact(row_bytes) {
        quant::dequantize(source.ty, bytes, &mut row)?;
        quant::quantize(ty, &row, &mut out)?;
    }
    Ok(out)
}

/// The bytes of a matrix after quantisation.
pub(super) struct Quantised {
    ty: GgmlType,
    bytes: Vec<u8>,
}

impl Quantised {
    /// In place of what it was made from.
    pub(super) fn source<'a>(&'a self, from: &WeightSource<'a>) -> WeightSource<'a> {
        WeightSource { ty: self.ty, bytes: &self.bytes, ..*from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_quantised_in_order() {
        let values: Vec<f32> = (0..5 * 256).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        for (n, k) in [(5, 256), (20, 64)] {
            let source =
                WeightSource { name: "a", ty: GgmlType::F32, n, k, bytes: &bytes, scale: 1.0 };
            for (name, target) in BY_NAME {
                assert_eq!(name.parse(), Ok(target));
                let mut expected = Vec::new();
                quant::quantize(target.ty(k), &values, &mut expected).unwrap();
                assert_eq!(target.quantise(&source).unwrap().bytes, expected, "{name} {k}");
            }
        }
        assert_eq!([64, 256].map(|k| Quantize::Q4K.ty(k)), [GgmlType::Q5_0, GgmlType::Q4K]);
        assert!("q9_0".parse::<Quantize>().unwrap_err().contains("q8_0"));
    }
}
