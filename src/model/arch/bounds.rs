//! Bounds of what a description may say.

use kolosal_kernels::recurrence::{MAX_KEY_DIM, MAX_TAPS};

use crate::model::carried::ScanShape;
use crate::model::error::ModelError;
use crate::model::spec::{AttnSpec, FfnSpec, HeadSpec, LatentSpec, MixerSpec, ModelSpec, MoeSpec};

/// Bounds that keep absurd files from absurd allocations.
pub(super) fn check(spec: &ModelSpec) -> Result<(), ModelError> {
    limit("layer count", spec.layers.len(), 1024)?;
    limit("hidden size", spec.hidden, 1 << 18)?;
    limit("vocabulary size", spec.vocab_size, 1 << 24)?;
    limit("context length", spec.context_len, 1 << 28)?;
    if let Some(altup) = &spec.altup {
        limit("residual stream count", altup.streams, 16)?;
        limit("width of a layer's input", altup.width, 1 << 14)?;
        limit("rank of the way past attention", altup.rank, 1 << 14)?;
    }
    if let HeadSpec::Dense { inner, out } = spec.head {
        limit("width of a dense layer", inner, 1 << 18)?;
        limit("width of an embedding", out, 1 << 18)?;
    }
    limit("width of a layer's input", spec.layer_input.unwrap_or(1), 1 << 14)?;
    for layer in &spec.layers {
        if let Some(attn) = layer.attn() {
            check_attention(spec, attn, layer.latent())?;
        }
        match &layer.ffn {
            FfnSpec::Gated { width, .. } | FfnSpec::Plain { width, .. } => {
                limit("feed-forward width", *width, 1 << 20)?;
            }
            FfnSpec::Moe(moe) => check_experts(moe)?,
            FfnSpec::Both { width, moe } => {
                limit("feed-forward width", *width, 1 << 20)?;
                check_experts(moe)?;
            }
            FfnSpec::None => {}
        }
        match &layer.mixer {
            MixerSpec::ShortConv(conv) => limit("taps of the convolution", conv.taps, MAX_TAPS)?,
            MixerSpec::Delta(delta) => check_scan(delta.taps, &delta.shape)?,
            MixerSpec::Ssm(ssm) | MixerSpec::Both { ssm, .. } => {
                check_scan(ssm.taps, &ssm.shape)?;
            }
            MixerSpec::Attention(_) | MixerSpec::Latent { .. } | MixerSpec::None => {}
        }
    }
    Ok(())
}

fn limit(what: &str, value: usize, max: usize) -> Result<(), ModelError> {
    match value {
        0 => Err(ModelError::Limit(format!("{what} is 0"))),
        value if value > max => Err(ModelError::Limit(format!("{what} {value} exceeds {max}"))),
        _ => Ok(()),
    }
}

fn check_attention(
    spec: &ModelSpec,
    attn: &AttnSpec,
    latent: Option<&LatentSpec>,
) -> Result<(), ModelError> {
    limit("head count", attn.heads, 1024)?;
    limit("kv head count", attn.kv_heads, 1024)?;
    limit("head dimension", attn.head_dim, 4096)?;
    limit("value dimension", attn.value_dim, 4096)?;
    if !attn.heads.is_multiple_of(attn.kv_heads) {
        return Err(ModelError::Limit(format!(
            "head count {} is no multiple of kv head count {}",
            attn.heads, attn.kv_heads
        )));
    }
    if let Some(chunk) = attn.chunk {
        limit("chunk of the attention", chunk, 1 << 28)?;
    }
    if let Some(latent) = latent {
        limit("width of a head's still part", latent.still, 4096)?;
        limit("width of a head's value", latent.value, 4096)?;
        limit("rank of the queries", latent.q_rank.unwrap_or(1), 1 << 18)?;
    }
    if let Some(temperature) = attn.temperature {
        limit("step of the attention temperature", temperature.floor, 1 << 28)?;
    }
    let turned = latent.map_or(attn.head_dim, |latent| latent.turned);
    if let Some(rope) = attn.rope.and_then(|rope| spec.ropes.get(rope))
        && (rope.dim > turned || rope.dim % 2 != 0 || rope.dim == 0)
    {
        return Err(ModelError::Limit(format!(
            "rope dimension {} does not fit head dimension {turned}",
            rope.dim
        )));
    }
    Ok(())
}

fn check_scan(taps: usize, shape: &ScanShape) -> Result<(), ModelError> {
    limit("taps of the convolution", taps, MAX_TAPS)?;
    limit("head count of the recurrence", shape.heads, 1024)?;
    limit("group count of the recurrence", shape.groups, shape.heads)?;
    limit("size of the state", shape.key_dim, MAX_KEY_DIM)?;
    limit("width of the recurrence's heads", shape.value_dim, 4096)?;
    if !shape.heads.is_multiple_of(shape.groups) {
        return Err(ModelError::Limit(format!(
            "{} heads of the recurrence are not those of {} groups",
            shape.heads, shape.groups
        )));
    }
    Ok(())
}

fn check_experts(moe: &MoeSpec) -> Result<(), ModelError> {
    limit("expert count", moe.experts, 4096)?;
    limit("used expert count", moe.used, moe.experts)?;
    limit("expert width", moe.width, 1 << 20)?;
    limit("width of the shared experts", moe.shared_width.unwrap_or(1), 1 << 20)?;
    limit("width that experts read", moe.latent.unwrap_or(1), 1 << 18)?;
    let Some(groups) = moe.groups else { return Ok(()) };
    limit("used expert group count", groups.used, groups.count)?;
    if !moe.experts.is_multiple_of(groups.count)
        || moe.experts / groups.count * groups.used < moe.used
    {
        return Err(ModelError::Limit(format!(
            "{} experts do not fit {} groups of which {} are used",
            moe.experts, groups.count, groups.used
        )));
    }
    Ok(())
}
