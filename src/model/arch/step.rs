//! Step 3.5: attention gated by head, heads and turned widths that differ between windows and the rest,
//! experts with limited gates in the last layers.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    ActSpec, FfnSpec, GateAct, GateSpec, GateWidth, ModelSpec, QkNorm, RopeFactors, RopeSpec,
    RopeStyle,
};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "step35",
    models: "Step 3.5 and 3.7 Flash (text)",
    proof: Proof::Own,
    describe: step35,
}];

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 4;

fn step35(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let whole = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    // Half of a head is turned in the layers that see all, for which factors are too.
    let global = RopeSpec { dim: whole.dim / 2, ..whole.clone() };
    let local = RopeSpec {
        base: keys.f32("rope.freq_base_swa")?.unwrap_or(whole.base),
        factors: RopeFactors::None,
        ..whole
    };
    let mut spec = keys.dense(keys.rms()?, global)?;
    spec.ropes.push(local);
    let layers = spec.layers.len();
    let window = keys.usize("attention.sliding_window")?;
    let is_local = keys.windows(layers, PATTERN)?;
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?;
    keys.sigmoid_mixtures(&mut spec, |moe| {
        moe.shared_width = Some(shared.unwrap_or(moe.width));
    })?;
    let limits = keys.limits("swiglu_clamp_exp", layers)?;
    let shared_limits = keys.limits("swiglu_clamp_shexp", layers)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let attn = layer.attn_mut();
        if keys.has(&name("attn_q_norm")) {
            attn.qk_norm = QkNorm::PerHead;
        }
        if keys.has(&name("attn_gate")) {
            attn.gate = Some(GateSpec { act: GateAct::Sigmoid, width: GateWidth::Head });
        }
        if is_local[index] {
            attn.window = Some(window);
            attn.rope = Some(1);
        }
        match &mut layer.ffn {
            FfnSpec::Moe(moe) => {
                moe.act = limited(limits[index]);
                moe.shared_act = Some(limited(shared_limits[index]));
            }
            FfnSpec::Gated { act, .. } => *act = limited(shared_limits[index]),
            FfnSpec::Plain { .. } | FfnSpec::Both { .. } | FfnSpec::None => {}
        }
    }
    Ok(spec)
}

/// SiLU, within a limit that is no zero.
fn limited(limit: f32) -> ActSpec {
    match limit > 0.0 {
        true => ActSpec::LimitedSwiglu { limit },
        false => ActSpec::Silu,
    }
}
