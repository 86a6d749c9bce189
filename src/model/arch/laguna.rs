//! Laguna: attention with a softplus gate, more heads in windows than elsewhere, experts chosen by biased
//! sigmoids beside a shared one.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    GateAct, GateSpec, GateWidth, ModelSpec, QkNorm, RopeFactors, RopeScaling, RopeSpec, RopeStyle,
};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "laguna",
    models: "Laguna XS, S and M",
    proof: Proof::Own,
    describe: laguna,
}];

/// Layers a global layer is the first of, when the file does not say.
const PERIOD: usize = 4;

fn laguna(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    // Only the global layers reach far enough to be scaled.
    let local = RopeSpec {
        dim: keys.opt_usize("rope.dimension_count_swa")?.unwrap_or(global.dim),
        base: keys.f32("rope.freq_base_swa")?.unwrap_or(global.base),
        scaling: RopeScaling::None,
        factors: RopeFactors::None,
        magnitude: 1.0,
        ..global.clone()
    };
    let mut spec = keys.dense(keys.rms()?, global)?;
    spec.ropes.push(local);
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let is_local = keys.windows_but_first(spec.layers.len(), PERIOD)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let attn = layer.attn_mut();
        attn.qk_norm = QkNorm::PerHead;
        let gate = keys.gguf.tensor(&format!("blk.{index}.attn_gate.weight"));
        let rows = gate.and_then(|gate| gate.shape.first().copied());
        let width = if rows == Some(attn.heads) { GateWidth::Head } else { GateWidth::Value };
        attn.gate = Some(GateSpec { act: GateAct::Softplus, width });
        if let (Some(window), true) = (window, is_local[index]) {
            attn.window = Some(window);
            attn.rope = Some(1);
        }
    }
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?;
    keys.sigmoid_mixtures(&mut spec, |moe| {
        moe.shared_width = Some(shared.unwrap_or(moe.width));
    })?;
    Ok(spec)
}
