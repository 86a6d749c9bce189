//! Linear biases by distance in place of positions (ALiBi, arXiv 2108.12409), which several families have.

use crate::model::spec::ModelSpec;

/// The largest exponent of the slopes, where files do not say it.
pub(super) const MAX_ALIBI_BIAS: f32 = 8.0;

/// Linear biases by distance in place of rotary positions; none with 0.
pub(super) fn set_alibi(spec: &mut ModelSpec, max_bias: f32) {
    spec.ropes.clear();
    for layer in &mut spec.layers {
        layer.attn_mut().rope = None;
        layer.attn_mut().alibi = (max_bias > 0.0).then_some(max_bias);
    }
}
