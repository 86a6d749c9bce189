//! Layers that carry a state, on the CPU back end.

use kolosal_kernels::recurrence::{self, ConvInput, ScanInput, StatePages, StateSpan};

use super::backend::{CpuOps, States};
use super::linear::activation;
use super::tensor::CpuTensor;
use crate::model::batch::Span;
use crate::model::carried::StateSpec;
use crate::model::error::ModelError;
use crate::model::ops::{Conv, Recur, Scan};

impl Recur for CpuOps {
    fn reserve_states(&mut self, layers: &[StateSpec], pages: usize) -> Result<(), ModelError> {
        let mut at = 0;
        let mut next = |len: usize| {
            at += len;
            at - len..at
        };
        let ranges = layers.iter().map(|state| [next(state.conv), next(state.len() - state.conv)]);
        let layers = ranges.collect();
        self.states = States { pages: StatePages::new(at, pages)?, layers };
        Ok(())
    }

    fn conv(&mut self, layer: usize, x: &CpuTensor, conv: &Conv) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(x.rows, x.cols)?;
        let act = conv.act.map(|act| activation(act).ok_or_else(unknown)).transpose()?;
        let input = ConvInput {
            x: x.view(),
            weights: &conv.weights,
            bias: conv.bias.as_deref(),
            activation: act,
            spans: &spans(&self.spans)?,
        };
        let [part, _] = self.states.layers[layer].clone();
        let states = (&mut self.states.pages, part);
        recurrence::conv(&input, states, out.view_mut(), &self.pool);
        Ok(out)
    }

    fn scan(&mut self, layer: usize, scan: &Scan<'_, CpuTensor>) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(scan.v.rows, scan.v.cols)?;
        let input = ScanInput {
            q: scan.q.view(),
            k: scan.k.view(),
            v: scan.v.view(),
            decay: scan.decay,
            gain: scan.gain,
            spans: &spans(&self.spans)?,
            shape: *scan.shape,
        };
        let [_, part] = self.states.layers[layer].clone();
        let states = (&mut self.states.pages, part);
        recurrence::scan(&input, states, out.view_mut(), &self.pool);
        Ok(out)
    }
}

fn unknown() -> ModelError {
    ModelError::Limit("a convolution with an activation that has no kernel".to_owned())
}

/// The spans of a batch as the kernels take them.
fn spans(spans: &[Span]) -> Result<Vec<StateSpan<'_>>, ModelError> {
    spans.iter().map(state_span).collect()
}

fn state_span(span: &Span) -> Result<StateSpan<'_>, ModelError> {
    let missing = || ModelError::Limit("a sequence without a page of state".to_owned());
    let state = span.state.as_ref().ok_or_else(missing)?;
    Ok(StateSpan {
        rows: span.rows.start as usize..span.rows.end as usize,
        from: state.from,
        to: state.to,
        saves: &state.saves,
    })
}
