//! Weights of the CPU back end: matrices packed for the kernels, tables, vectors, rotary angles.

use std::borrow::Cow;
use std::sync::Arc;

use kolosal_kernels::linear::{PackError, Packed};
use kolosal_kernels::memory;
use kolosal_kernels::quant::{self, GgmlType, QuantError};
use kolosal_kernels::rope::{self, RopeTable};

use super::backend::CpuOps;
use crate::model::error::ModelError;
use crate::model::memory::copied;
use crate::model::ops::{Load, WeightSource};
use crate::model::spec::{RopeSpec, RopeStyle};

pub struct CpuLinear {
    pub(super) packed: Arc<Packed>,
    /// Factor on the output, before the bias.
    pub(super) scale: f32,
    pub(super) bias: Option<Vec<f32>>,
}

/// Token embeddings: the tied head's packed rows, or the file's own rows copied.
pub enum CpuTable {
    Packed(Arc<Packed>),
    Raw { ty: GgmlType, k: usize, row_bytes: usize, bytes: Vec<u8> },
}

impl CpuOps {
    fn pack(&mut self, source: &WeightSource<'_>) -> Result<Arc<Packed>, ModelError> {
        let (mut ty, n, k) = (source.ty, source.n, source.k);
        let bad = |problem| {
            let name = source.name.to_owned();
            ModelError::BadTensor { name, ty: source.ty.name(), problem }
        };
        let mut bytes = Cow::Borrowed(source.bytes);
        if let Some(exact) = quant::exact_form(ty) {
            let converted = quant::to_exact_form(ty, source.bytes, n * k);
            bytes = Cow::Owned(converted.map_err(|error| match error {
                QuantError::Memory(error) => error.into(),
                error => bad(error.to_string()),
            })?);
            ty = exact;
        }
        let packed = Packed::pack_in(&self.arena, ty, n, k, &bytes, &self.pool);
        let packed = packed.map_err(|error| match error {
            PackError::Memory(error) => error.into(),
            error => bad(error.to_string()),
        })?;
        if let Some(locking) = &mut self.locking {
            locking.take(packed.bytes(), || packed.lock());
        }
        self.weight_bytes += packed.bytes();
        self.has_float_weights |= packed.is_float();
        Ok(Arc::new(packed))
    }
}

impl Load for CpuOps {
    type Linear = CpuLinear;
    type Vector = Vec<f32>;
    type Rope = (RopeTable, rope::RopeStyle);
    type Table = CpuTable;

    fn load_linear(
        &mut self,
        source: &WeightSource<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<CpuLinear, ModelError> {
        Ok(CpuLinear { packed: self.pack(source)?, scale: source.scale, bias })
    }

    fn load_vector(&mut self, values: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        self.weight_bytes += values.len() * 4;
        Ok(values)
    }

    fn load_table(&mut self, source: &WeightSource<'_>) -> Result<CpuTable, ModelError> {
        let bytes = copied(source.bytes)?;
        if let Some(locking) = &mut self.locking {
            locking.take(bytes.len(), || memory::lock(&bytes));
        }
        self.weight_bytes += bytes.len();
        Ok(CpuTable::Raw { ty: source.ty, k: source.k, row_bytes: bytes.len() / source.n, bytes })
    }

    fn load_tied_table(
        &mut self,
        source: &WeightSource<'_>,
    ) -> Result<(CpuTable, CpuLinear), ModelError> {
        let packed = self.pack(source)?;
        Ok((CpuTable::Packed(packed.clone()), CpuLinear { packed, scale: 1.0, bias: None }))
    }

    fn load_rope(
        &mut self,
        spec: &RopeSpec,
        factors: Option<&[f32]>,
        context_len: usize,
    ) -> Result<Self::Rope, ModelError> {
        let style = match spec.style {
            RopeStyle::Norm => rope::RopeStyle::Norm,
            RopeStyle::Neox => rope::RopeStyle::Neox,
        };
        let (frequencies, magnitude) = spec.frequencies(factors);
        let mut table = RopeTable::new(frequencies, magnitude);
        table.reserve(context_len)?;
        Ok((table, style))
    }
}
