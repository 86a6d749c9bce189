//! From the tensor names of transformers to those of GGUF, and what else differs between the two.

use kolosal_kernels::quant::{self, GgmlType};

/// What becomes of a tensor on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The first rows are left out: positions that are never used.
    SkipRows(usize),
    /// Rows of each head from two halves to pairs, for rotary embeddings of adjacent values.
    Interleave(usize),
    /// One is added: norms that are stored as what they differ from one by.
    PlusOne,
}

/// Rows of `bytes` with those of each head's second half between those of its first.
pub(super) fn interleave(bytes: &[u8], rows: usize, heads: usize) -> Option<Vec<u8>> {
    if heads == 0 || !rows.is_multiple_of(2 * heads) || !bytes.len().is_multiple_of(rows) {
        return None;
    }
    let (row, half) = (bytes.len() / rows, rows / heads / 2);
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(2 * half * row) {
        for i in 0..half {
            out.extend_from_slice(&head[i * row..][..row]);
            out.extend_from_slice(&head[(half + i) * row..][..row]);
        }
    }
    Some(out)
}

/// The values in f32, each raised by one.
pub(super) fn plus_one(ty: GgmlType, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut values = vec![0f32; bytes.len() / ty.block_bytes() * ty.block_len()];
    quant::dequantize(ty, bytes, &mut values).ok()?;
    Some(values.into_iter().flat_map(|value| (value + 1.0).to_le_bytes()).collect())
}

/// Parts of a decoder's layer: (transformers, GGUF).
pub(super) const DECODER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
/// The norm before the feed-forward part of a layer with two norms.
pub(super) const TWO_NORMS: &[(&str, &str)] = &[("post_attention_layernorm", "ffn_norm")];
/// The norms of a layer with four.
pub(super) const FOUR_NORMS: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
/// What stands outside a decoder's layers.
pub(super) const DECODER_TOP: &[(&str, &str)] =
    &[("embed_tokens", "token_embd"), ("norm", "output_norm"), ("lm_head", "output")];

/// Parts of BERT's layer.
pub(super) const BERT: &[(&str, &str)] = &[
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
];
/// What stands outside BERT's layers.
pub(super) const BERT_TOP: &[(&str, &str)] = &[
    ("embeddings.word_embeddings", "token_embd"),
    ("embeddings.position_embeddings", "position_embd"),
    ("embeddings.token_type_embeddings", "token_types"),
    ("embeddings.LayerNorm", "token_embd_norm"),
];
/// BERT's classifier reads what its pooler makes of the first token.
pub(super) const BERT_CLASSIFIER: &[(&str, &str)] =
    &[("pooler.dense", "cls"), ("classifier", "cls.output")];
/// RoBERTa's classifier has the layer inside.
pub(super) const ROBERTA_CLASSIFIER: &[(&str, &str)] =
    &[("classifier.dense", "cls"), ("classifier.out_proj", "cls.output")];

/// `layer.3.output.dense.weight` below `prefix` as (`3`, `output.dense`, `weight`).
pub(super) fn layer_part<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str, &'a str)> {
    let rest = name.strip_prefix(prefix)?;
    let (index, rest) = rest.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    Some((index.parse().ok()?, part, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_pairs() {
        // Two heads of four rows of one byte.
        let rows = interleave(&[0, 1, 2, 3, 10, 11, 12, 13], 8, 2);
        assert_eq!(rows.unwrap(), [0, 2, 1, 3, 10, 12, 11, 13]);
        assert_eq!(interleave(&[0; 6], 6, 2), None);
        assert_eq!(interleave(&[0; 6], 6, 0), None);
    }

    #[test]
    fn layers_are_numbered() {
        let part = layer_part("layers.12.mlp.up_proj.weight", "layers.");
        assert_eq!(part, Some((12, "mlp.up_proj", "weight")));
        assert_eq!(layer_part("layers.x.mlp.weight", "layers."), None);
        assert_eq!(layer_part("norm.weight", "layers."), None);
    }
}
