//! Whether a file has what its model needs and nothing else, found out without reading weights.

use kolosal_kernels::linear::Packed;
use kolosal_kernels::quant;

use crate::model::error::ModelError;
use crate::model::ops::{Load, WeightSource};
use crate::model::spec::{ModelSpec, RopeSpec};

use super::load::{Files, load};

/// Goes through all that [`load`] does, with names, shapes and types alone.
///
/// # Errors
/// As [`load`].
pub(in crate::model) fn check(
    spec: &ModelSpec,
    files: Files<'_>,
    context_len: usize,
) -> Result<(), ModelError> {
    load(&mut Plan, spec, files, context_len).map(drop)
}

/// Takes weights and keeps nothing.
struct Plan;

impl Load for Plan {
    type Linear = ();
    type Vector = ();
    type Rope = ();
    type Table = ();

    const READS: bool = false;

    fn load_linear(
        &mut self,
        source: &WeightSource<'_>,
        _: Option<Vec<f32>>,
    ) -> Result<(), ModelError> {
        if Packed::takes(quant::exact_form(source.ty).unwrap_or(source.ty)) {
            return Ok(());
        }
        Err(ModelError::BadTensor {
            name: source.name.to_owned(),
            ty: source.ty.name(),
            problem: "matrices of this type are not supported".to_owned(),
        })
    }

    fn load_vector(&mut self, _: Vec<f32>) -> Result<(), ModelError> {
        Ok(())
    }

    fn load_table(&mut self, _: &WeightSource<'_>) -> Result<(), ModelError> {
        Ok(())
    }

    fn load_tied_table(&mut self, source: &WeightSource<'_>) -> Result<((), ()), ModelError> {
        Ok(((), self.load_linear(source, None)?))
    }

    fn load_rope(&mut self, _: &RopeSpec, _: Option<&[f32]>, _: usize) -> Result<(), ModelError> {
        Ok(())
    }
}
