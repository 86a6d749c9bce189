//! Apertus: an activation with numbers of its own in each layer (xIELU).

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, QkNorm, RopeStyle, Xielu};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "apertus", models: "Apertus", proof: Proof::Own, describe: apertus }];

/// The activation has numbers of its own in each layer.
pub(super) fn apertus(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let layers = spec.layers.len();
    let p = keys.floats("xielu.alpha_p", layers)?;
    let n = keys.floats("xielu.alpha_n", layers)?;
    let beta = keys.floats("xielu.beta", layers)?;
    let eps = keys.floats("xielu.eps", layers)?;
    let softplus = |x: f32| if x > 20.0 { x } else { x.exp().ln_1p() };
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        layer.attn_mut().qk_norm = QkNorm::PerHead;
        layer.ffn = layer.ffn.plain(ActSpec::Xielu(Xielu {
            p: softplus(p[index]),
            n: beta[index] + softplus(n[index]),
            beta: beta[index],
            eps: eps[index],
        }));
    }
    Ok(spec)
}
