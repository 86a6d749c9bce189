//! MiMo 2: windows with sinks and more key heads than elsewhere, values narrower than keys and scaled,
//! experts chosen by biased sigmoids.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, RopeSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "mimo2",
    models: "MiMo V2 Flash and 2.5",
    proof: Proof::Own,
    describe: mimo2,
}];

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 6;

fn mimo2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let local =
        RopeSpec { base: keys.f32("rope.freq_base_swa")?.unwrap_or(global.base), ..global.clone() };
    let mut spec = keys.dense(keys.rms()?, global)?;
    spec.ropes.push(local);
    let window = keys.usize("attention.sliding_window")?;
    let is_local = keys.windows(spec.layers.len(), PATTERN)?;
    let value_scale = keys.f32("attention.value_scale")?.filter(|scale| *scale != 0.0);
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let attn = layer.attn_mut();
        attn.value_scale = value_scale.unwrap_or(1.0);
        attn.sinks = keys.has(&format!("blk.{index}.attn_sinks.weight"));
        if is_local[index] {
            attn.window = Some(window);
            attn.rope = Some(1);
        }
    }
    keys.sigmoid_mixtures(&mut spec, |moe| moe.normalise = true)?;
    Ok(spec)
}
