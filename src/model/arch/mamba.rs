//! Mamba 2, and what hybrids read of its metadata.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::carried::{Rule, ScanShape, SsmSpec};
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, HeadSpec, LayerSpec, MixerSpec, ModelSpec, Norms};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "mamba2", models: "Mamba 2", proof: Proof::Own, describe: mamba2 }];

impl Keys<'_> {
    /// Sizes of a recurrence by the standard keys: the heads of a model of `ssm` kind, a state, groups.
    pub(super) fn scan(&self, rule: Rule, is_grouped: bool) -> Result<ScanShape, ModelError> {
        let (heads, inner) = (self.usize("ssm.time_step_rank")?, self.usize("ssm.inner_size")?);
        if heads == 0 || !inner.is_multiple_of(heads) {
            let problem = format!("{inner} columns are not those of {heads} heads");
            return Err(ModelError::BadKey { key: self.key("ssm.inner_size"), problem });
        }
        Ok(ScanShape {
            heads,
            groups: self.usize("ssm.group_count")?,
            is_grouped,
            key_dim: self.usize("ssm.state_size")?,
            value_dim: inner / heads,
            rule,
            decays_by_key: false,
        })
    }

    /// A state-space layer by the standard keys.
    pub(super) fn ssm(&self, has_norm: bool) -> Result<SsmSpec, ModelError> {
        let shape = self.scan(Rule::Add, true)?;
        Ok(SsmSpec { taps: self.usize("ssm.conv_kernel")?, shape, has_norm })
    }
}

fn mamba2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let ssm = keys.ssm(true)?;
    let layer = LayerSpec {
        mixer: MixerSpec::Ssm(ssm),
        ffn: FfnSpec::None,
        norms: Norms { ffn: None, ..Norms::PRE },
    };
    for unused in ["attention.head_count", "feed_forward_length"] {
        keys.leave_out(unused);
    }
    let layers = keys.usize("block_count")?;
    if layers > 1024 {
        return Err(ModelError::Limit(format!("layer count {layers} exceeds 1024")));
    }
    Ok(ModelSpec { layers: vec![layer; layers], head: HeadSpec::Logits, ..keys.bare(keys.rms()?)? })
}
