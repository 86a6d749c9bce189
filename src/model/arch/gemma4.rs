//! Gemma 4: heads wider in global layers than in local ones, values that may be the keys, a factor on each
//! layer's result; in the small models an input for each layer, and keys and values of earlier layers in
//! the last ones; in one model experts beside the dense part.

use super::family::{Architecture, Proof};
use super::gemma::{base, cap, share_kv};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    ActSpec, FfnSpec, ModelSpec, MoeSpec, Norms, QkNorm, RopeFactors, RopeScaling, RopeSpec,
    RopeStyle,
};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "gemma4",
    models: "Gemma 4 (E2B, E4B, 12B, 26B-A4B, 31B; text)",
    proof: Proof::Own,
    describe: gemma4,
}];

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 6;

fn gemma4(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let local_dim = keys.usize("attention.key_length_swa")?;
    let local = RopeSpec {
        dim: keys.opt_usize("rope.dimension_count_swa")?.unwrap_or(local_dim),
        base: keys.f32("rope.freq_base_swa")?.unwrap_or(10_000.0),
        scaling: RopeScaling::None,
        factors: RopeFactors::None,
        ..global.clone()
    };
    let mut spec = base(keys, global)?;
    spec.ropes.push(local);
    spec.logit_softcap = cap(keys.f32("final_logit_softcapping")?);
    spec.layer_input =
        keys.opt_usize("embedding_length_per_layer_input")?.filter(|width| *width > 0);
    let layers = spec.layers.len();
    let local_value_dim = keys.opt_usize("attention.value_length_swa")?.unwrap_or(local_dim);
    let window = keys.usize("attention.sliding_window")?;
    let is_local = keys.windows(layers, PATTERN)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        layer.norms = Norms { scaled: keys.has(&name("layer_output_scale")), ..Norms::PRE_POST };
        let attn = layer.attn_mut();
        if is_local[index] {
            (attn.head_dim, attn.value_dim) = (local_dim, local_value_dim);
            attn.window = Some(window);
            attn.rope = Some(1);
        }
        attn.qk_norm = QkNorm::PerHead;
        attn.scale = 1.0;
        attn.value_norm = true;
        attn.values_of_keys = !keys.has(&name("attn_v")) && !keys.has(&name("attn_qkv"));
        if let (FfnSpec::Gated { width, .. }, true) = (&layer.ffn, keys.has(&name("ffn_gate_inp")))
        {
            let moe = MoeSpec { act: ActSpec::Gelu, ..keys.moe(*width)? };
            layer.ffn = FfnSpec::Both { width: *width, moe };
        }
    }
    let shared = keys.opt_usize("attention.shared_kv_layers")?.unwrap_or(0);
    share_kv(&mut spec, layers.saturating_sub(shared), &is_local)?;
    Ok(spec)
}
