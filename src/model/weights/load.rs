//! Weights read from a file: found by their names, checked, and put into the back end's form.

use std::collections::HashSet;

use crate::model::error::ModelError;
use crate::model::gguf::Gguf;
use crate::model::loader::Loader;
use crate::model::ops::Load;
use crate::model::quantize::Quantize;
use crate::model::spec::{EmbedNorm, HeadSpec, ModelSpec, RopeFactors};

use super::progress::Progress;
use super::{Head, Weights};

/// Tensors that files carry and inference does not need.
const IGNORED: [&str; 5] =
    ["attn_rot_embd", "attn.masked_bias", "rope_freqs", "rope_factors", "position_ids"];

/// Where weights come from, and what becomes of those in floats.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    pub gguf: &'a Gguf,
    pub quantize: Option<Quantize>,
}

/// Reads all weights of `spec` from `files`.
///
/// # Errors
/// A tensor that is missing, misshapen, or that nothing would use: a model that is only half
/// understood must not answer.
pub fn load<O: Load>(
    ops: &mut O,
    spec: &ModelSpec,
    files: Files<'_>,
    context_len: usize,
) -> Result<Weights<O>, ModelError> {
    let Files { gguf, quantize } = files;
    if let Some(target) = quantize {
        target.check(gguf)?;
    }
    let learned = spec.norms_learned;
    let mut loader =
        Loader { ops, gguf, quantize, learned, used: HashSet::new(), spare: Vec::new() };
    let weights = loader.model(spec, context_len)?;
    let unused: Vec<&str> = gguf
        .tensors()
        .iter()
        .map(|tensor| tensor.name.as_str())
        .filter(|name| !loader.used.contains(*name))
        .filter(|name| !IGNORED.iter().any(|ignored| name.contains(ignored)))
        .filter(|name| !is_spare(name, spec))
        .filter(|name| !spec.left_out.iter().any(|part| name.contains(part)))
        .collect();
    if unused.is_empty() {
        return Ok(weights);
    }
    let more = unused.len().saturating_sub(4);
    let mut names = unused[..unused.len() - more].join(", ");
    if more > 0 {
        names = format!("{names} and {more} more");
    }
    Err(ModelError::UnusedTensors { architecture: spec.architecture.clone(), names })
}

/// The tensor belongs to a block after the layers, as [`ModelSpec::spare_blocks`] counts them.
fn is_spare(name: &str, spec: &ModelSpec) -> bool {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
    let block = block.and_then(|block| block.parse::<usize>().ok());
    let first = spec.layers.len();
    block.is_some_and(|block| (first..first + spec.spare_blocks).contains(&block))
}

impl<O: Load> Loader<'_, O> {
    fn model(&mut self, spec: &ModelSpec, context_len: usize) -> Result<Weights<O>, ModelError> {
        let (table, head) = self.table_and_head(spec)?;
        let types = match spec.token_types {
            0 => None,
            rows => Some(self.table("token_types.weight", &[rows, spec.hidden])?),
        };
        let positions = if spec.learned_positions {
            let info = self.info("position_embd.weight")?;
            if info.shape[0] < context_len {
                return Err(ModelError::Shape {
                    name: info.name.clone(),
                    found: info.shape.clone(),
                    expected: vec![context_len, spec.hidden],
                });
            }
            Some(self.table("position_embd.weight", &[info.shape[0], spec.hidden])?)
        } else {
            None
        };
        let embed_norm = match spec.embed_norm {
            EmbedNorm::Learned => Some(self.norm("token_embd_norm", spec.hidden, spec.norm)?),
            EmbedNorm::Plain => Some(self.ones(spec.hidden, spec.norm)?),
            EmbedNorm::None => None,
        };
        let ropes = spec
            .ropes
            .iter()
            .map(|rope| {
                let factors = match rope.factors {
                    RopeFactors::None => None,
                    RopeFactors::Always(name) => Some(self.floats(name, rope.dim / 2)?),
                    RopeFactors::BySize { short, long, original_context } => {
                        let name = if context_len > original_context { long } else { short };
                        Some(self.floats(name, rope.dim / 2)?)
                    }
                };
                self.ops.load_rope(rope, factors.as_deref(), context_len)
            })
            .collect::<Result<_, _>>()?;
        let mut progress = Progress::new(spec.layers.len());
        let layers = spec
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| -> Result<_, ModelError> {
                let layer = self.layer(spec, index, layer)?;
                if O::READS {
                    progress.loaded(index);
                }
                Ok(layer)
            })
            .collect::<Result<_, _>>()?;
        let inputs = match spec.layer_input {
            Some(width) => Some(self.layer_inputs(spec, width)?),
            None => None,
        };
        let altup = match &spec.altup {
            Some(altup) => Some(self.altup(spec, altup)?),
            None => None,
        };
        Ok(Weights { table, positions, types, embed_norm, layers, head, ropes, inputs, altup })
    }

    fn table_and_head(&mut self, spec: &ModelSpec) -> Result<(O::Table, Head<O>), ModelError> {
        let hidden = spec.hidden;
        let found = self.source("token_embd.weight", &[spec.vocab_size, hidden])?;
        let bytes = self.bytes(&found, 0..spec.vocab_size)?;
        let embd = found.weight(spec.vocab_size, &bytes);
        let buffer;
        let embd = {
            buffer = self.quantised(&embd)?;
            buffer.as_ref().map_or(embd, |quantised| quantised.source(&embd))
        };
        Ok(match spec.head {
            HeadSpec::Logits => {
                let (table, out) = if self.gguf.tensor("output.weight").is_some() {
                    let table = self.ops.load_table(&embd)?;
                    (table, self.linear("output", spec.vocab_size, hidden)?)
                } else {
                    self.ops.load_tied_table(&embd)?
                };
                (table, Head::Logits { norm: self.norm(spec.last_norm, hidden, spec.norm)?, out })
            }
            HeadSpec::None => (self.ops.load_table(&embd)?, Head::None),
            HeadSpec::Norm => {
                let table = self.ops.load_table(&embd)?;
                (table, Head::Norm(self.norm(spec.last_norm, hidden, spec.norm)?))
            }
            HeadSpec::Dense { inner, out } => {
                let table = self.ops.load_table(&embd)?;
                let norm = self.norm("output_norm", hidden, spec.norm)?;
                let first = self.linear("dense_2", inner, hidden)?;
                let layers = [first, self.linear("dense_3", out, inner)?];
                (table, Head::Dense { norm, layers })
            }
            HeadSpec::YesNo => {
                let table = self.ops.load_table(&embd)?;
                let norm = self.norm("output_norm", hidden, spec.norm)?;
                (table, Head::YesNo { norm, out: self.linear("cls.output", 2, hidden)? })
            }
            HeadSpec::Classifier { inner, scores } => {
                let table = self.ops.load_table(&embd)?;
                let inner = match inner {
                    true => Some(self.linear("cls", hidden, hidden)?),
                    false => None,
                };
                (table, Head::Classifier { inner, out: self.linear("cls.output", scores, hidden)? })
            }
        })
    }
}
