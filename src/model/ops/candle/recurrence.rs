//! Layers that carry a state, on the host in plain Rust whatever the device: right, not fast.

use candle_core::Tensor;
use kolosal_kernels::recurrence::plain::{self, ScanRow};

use super::{CandleOps, activate};
use crate::model::batch::SpanState;
use crate::model::carried::StateSpec;
use crate::model::error::ModelError;
use crate::model::ops::{Conv, Recur, Scan, Tensors};

/// State of all layers and pages.
#[derive(Default)]
pub(super) struct States {
    /// By layer: a convolution's rows, a recurrence's matrices.
    layers: Vec<[Part; 2]>,
}

/// What one operation of a layer carries.
#[derive(Default)]
struct Part {
    len: usize,
    pages: Vec<Vec<f32>>,
}

impl Part {
    fn new(len: usize, pages: usize) -> Self {
        Self { len, pages: vec![vec![0.0; len]; pages] }
    }

    /// Steps through the rows of a span, whose state `row` brings from before each to after it.
    fn run(
        &mut self,
        rows: std::ops::Range<u32>,
        pages: Option<&SpanState>,
        mut row: impl FnMut(usize, &mut [f32]),
    ) -> Result<(), ModelError> {
        let missing = || ModelError::Limit("a sequence without a page of state".to_owned());
        let pages = pages.ok_or_else(missing)?;
        let mut state = match pages.from {
            Some(page) => self.pages.get(page as usize).ok_or_else(missing)?.clone(),
            None => vec![0.0; self.len],
        };
        let mut saves = pages.saves.iter().peekable();
        for at in rows.clone() {
            row(at as usize, &mut state);
            if let Some(save) = saves.next_if(|save| save.rows == at + 1 - rows.start) {
                self.pages.get_mut(save.page as usize).ok_or_else(missing)?.clone_from(&state);
            }
        }
        *self.pages.get_mut(pages.to as usize).ok_or_else(missing)? = state;
        Ok(())
    }
}

impl Recur for CandleOps {
    fn reserve_states(&mut self, layers: &[StateSpec], pages: usize) -> Result<(), ModelError> {
        let of_layer = |state: &StateSpec| {
            let scan = state.scan.map_or(0, |scan| scan.heads * scan.key_dim * scan.value_dim);
            [Part::new(state.conv, pages), Part::new(scan, pages)]
        };
        self.states.layers = layers.iter().map(of_layer).collect();
        Ok(())
    }

    fn conv(&mut self, layer: usize, x: &Tensor, conv: &Conv) -> Result<Tensor, ModelError> {
        let (rows, cols) = x.dims2()?;
        let values = self.host(x.clone())?;
        let mut out = vec![0.0; rows * cols];
        let weights = (&conv.weights[..], conv.bias.as_deref());
        for span in &self.spans {
            self.states.layers[layer][0].run(
                span.rows.clone(),
                span.state.as_ref(),
                |row, state| {
                    let range = row * cols..(row + 1) * cols;
                    plain::conv_row(&values[range.clone()], state, weights, &mut out[range]);
                },
            )?;
        }
        let out = Tensor::from_vec(out, (rows, cols), &self.device)?;
        match conv.act {
            Some(act) => activate(&out, act),
            None => Ok(out),
        }
    }

    fn scan(&mut self, layer: usize, scan: &Scan<'_, Tensor>) -> Result<Tensor, ModelError> {
        let (rows, cols) = scan.v.dims2()?;
        let q = self.host(scan.q.clone())?;
        let k = self.host(scan.k.clone())?;
        let v = self.host(scan.v.clone())?;
        let mut out = vec![0.0; rows * cols];
        for span in &self.spans {
            self.states.layers[layer][1].run(
                span.rows.clone(),
                span.state.as_ref(),
                |row, state| {
                    let of = |all: &'_ [f32]| -> std::ops::Range<usize> {
                        let width = all.len() / rows;
                        row * width..(row + 1) * width
                    };
                    let input = ScanRow {
                        q: &q[of(&q)],
                        k: &k[of(&k)],
                        v: &v[of(&v)],
                        decay: &scan.decay[of(scan.decay)],
                        gain: &scan.gain[of(scan.gain)],
                    };
                    let out = &mut out[row * cols..(row + 1) * cols];
                    plain::scan_row(&input, scan.shape, state, out);
                },
            )?;
        }
        Ok(Tensor::from_vec(out, (rows, cols), &self.device)?)
    }
}
