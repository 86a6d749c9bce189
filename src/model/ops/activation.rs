//! Activation functions of the CPU back end: which the kernels have, and one that they lack.

use kolosal_kernels::Activation;

use crate::model::spec::ActSpec;

/// The kernels' name for an activation; `None` for those that they lack.
pub(super) fn activation(act: ActSpec) -> Option<Activation> {
    match act {
        ActSpec::Silu => Some(Activation::Silu),
        ActSpec::Gelu => Some(Activation::Gelu),
        ActSpec::GeluErf => Some(Activation::GeluErf),
        ActSpec::Relu => Some(Activation::Relu),
        ActSpec::Relu2 => Some(Activation::Relu2),
        ActSpec::Tanh | ActSpec::OaiSwiglu | ActSpec::Xielu(_) => None,
    }
}

/// See [`ActSpec::OaiSwiglu`].
pub(super) fn oai_swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((&gate, &up), out) in gate.iter().zip(up).zip(out) {
        let gate = gate.min(7.0);
        *out = gate / (1.0 + (-1.702 * gate).exp()) * (up.clamp(-7.0, 7.0) + 1.0);
    }
}
