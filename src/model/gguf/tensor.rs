//! One tensor of an open file.

use kolosal_kernels::quant::GgmlType;

/// Name, shape, type and place of a tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    /// Outermost dimension first: a matrix is `(n, k)` with rows of `k` values. 1 to 4 dimensions,
    /// none of them zero.
    pub shape: Vec<usize>,
    pub ty: GgmlType,
    /// Which file of a split model.
    pub(super) shard: usize,
    /// From the start of that file.
    pub(super) start: usize,
    pub(super) len: usize,
}

impl TensorInfo {
    /// Number of values; never overflows in a file that opened.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in the file.
    pub fn num_bytes(&self) -> usize {
        self.len
    }
}
