//! Models that candle-transformers runs and our decoder does not: LFM 2, whose layers keep a short
//! history instead of keys and values.
//!
//! Such a model holds the state of one sequence, and its interface can neither save it nor set it
//! back. So this runner remembers which token is in which slot, and what the model has read. A batch
//! that goes on where the model is costs a step; any other is read again from its beginning. The
//! engine runs one sequence at a time for it.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_lfm2::ModelWeights;
use kolosal_kernels::memory::Floats;

use super::arch;
use super::batch::{BLOCK, Batch, Span};
use super::error::ModelError;
use super::gguf::Gguf;
use super::options::RunnerOptions;
use super::runner::{KvGrowth, Logits, Pooling, Purpose, Runner, RunnerError, RunnerSpec};

/// Tokens of a beginning that are read in one piece. The model keeps a mask for each size that it
/// meets, so that sizes are powers of two up to here.
const MAX_PIECE: usize = 512;
/// The model makes tables of cosines for its whole context.
const MAX_CONTEXT: u32 = 1 << 18;

/// A model of candle-transformers.
pub(super) struct TransformersRunner {
    source: Source,
    model: ModelWeights,
    /// Nothing has been read since the weights were loaded.
    is_fresh: bool,
    /// Tokens that the model's state stands for.
    read: Vec<u32>,
    /// By slot.
    tokens: Vec<u32>,
    spec: RunnerSpec,
}

/// From where the weights can be loaded again.
struct Source {
    path: PathBuf,
    device: Device,
}

impl Source {
    fn load(&self) -> Result<ModelWeights, ModelError> {
        let mut file = File::open(&self.path).map_err(candle_core::Error::wrap)?;
        let content = Content::read(&mut file)?;
        Ok(ModelWeights::from_gguf(content, &mut file, &self.device)?)
    }
}

/// What the metadata says and the model believes without a look.
struct Sizes {
    context: usize,
    vocab_size: usize,
    kv_bytes_per_block: usize,
    embedding_bytes: usize,
    /// Of each layer.
    has_attention: Vec<bool>,
}

impl TransformersRunner {
    pub(super) fn load(
        gguf: &Gguf,
        options: &RunnerOptions,
        device: Device,
    ) -> Result<Self, ModelError> {
        check(gguf, options)?;
        let sizes = sizes(gguf)?;
        let [path] = gguf.paths() else { return Err(split()) };
        let context_len = options.n_ctx.clamp(1, sizes.context);
        let spec = RunnerSpec {
            vocab_size: sizes.vocab_size,
            context_len,
            num_blocks: context_len.div_ceil(BLOCK) + 1,
            kv_growth: KvGrowth::default(),
            max_rows: options.max_rows.max(1),
            kv_bytes_per_block: sizes.kv_bytes_per_block,
            weight_bytes: gguf.file_bytes() as usize + sizes.embedding_bytes,
            hidden: 0,
            pooling: Pooling::Mean,
            device: match device.location() {
                candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
                candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
                candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
            },
            purpose: Purpose::Generate,
            sees_later: false,
            one_at_a_time: true,
            warning: None,
        };
        let source = Source { path: path.clone(), device };
        Ok(Self {
            model: source.load()?,
            source,
            is_fresh: true,
            read: Vec::new(),
            tokens: vec![0; spec.num_blocks * BLOCK],
            spec,
        })
    }

    /// Adds what a person should know.
    pub(super) fn with_warning(mut self, warning: Option<String>) -> Self {
        self.spec.warning = warning;
        self
    }

    /// Logits of the last of `tokens`, (vocabulary).
    fn advance(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let goes_on = self.read.len() < tokens.len() && tokens.starts_with(&self.read);
        if !goes_on {
            self.read.clear();
        }
        let mut logits = None;
        while self.read.len() < tokens.len() {
            let at = self.read.len();
            let piece = piece_len(at, tokens.len());
            if at == 0 && piece == 1 && !self.is_fresh {
                // A single token does not clear the short histories.
                self.model = self.source.load()?;
            }
            self.is_fresh = false;
            let input = Tensor::new(&tokens[at..at + piece], &self.source.device)?.unsqueeze(0)?;
            // After a failure the state stands for nothing.
            let read = std::mem::take(&mut self.read);
            logits = Some(self.model.forward(&input, at)?);
            self.read = read;
            self.read.extend_from_slice(&tokens[at..at + piece]);
        }
        let logits = logits.ok_or_else(|| ModelError::Limit("no token to read".to_owned()))?;
        let mut logits = logits.flatten_all()?.to_vec1::<f32>()?;
        logits.truncate(self.spec.vocab_size);
        Ok(logits)
    }

    /// All tokens of a span's sequence.
    fn history(&self, span: &Span) -> Vec<u32> {
        let slot = |at: usize| span.blocks[at / BLOCK] as usize * BLOCK + at % BLOCK;
        (0..span.kv_len as usize).map(|at| self.tokens[slot(at)]).collect()
    }

    fn run(&mut self, batch: &Batch) -> Result<Floats, ModelError> {
        for (&token, &slot) in batch.tokens.iter().zip(&batch.slots) {
            self.tokens[slot as usize] = token;
        }
        let mut data = Floats::default();
        data.resize(batch.logit_rows.len() * self.spec.vocab_size);
        let mut rows = data.chunks_exact_mut(self.spec.vocab_size.max(1));
        for span in &batch.spans {
            let history = self.history(span);
            // The span's rows are the last of its sequence.
            let before = history.len() - span.rows.len();
            for &row in batch.logit_rows.iter().filter(|row| span.rows.contains(row)) {
                let end = before + (row - span.rows.start) as usize + 1;
                let logits = self.advance(&history[..end])?;
                if let Some(target) = rows.next().filter(|target| target.len() == logits.len()) {
                    target.copy_from_slice(&logits);
                }
            }
        }
        Ok(data)
    }
}

impl Runner for TransformersRunner {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError> {
        let data = self.run(batch).map_err(|error| RunnerError(error.to_string()))?;
        Ok(Logits { data, vocab_size: self.spec.vocab_size })
    }
}

/// Bytes that [`TransformersRunner::load`] will need.
pub(super) fn estimate_bytes(gguf: &Gguf, options: &RunnerOptions) -> Result<u64, ModelError> {
    let sizes = sizes(gguf)?;
    let blocks = options.n_ctx.clamp(1, sizes.context).div_ceil(BLOCK);
    let kv = sizes.kv_bytes_per_block as u64 * blocks as u64;
    // candle keeps a packed copy of the weights beside the file's.
    Ok(gguf.file_bytes() * 2 + sizes.embedding_bytes as u64 + kv)
}

/// Keys that the model reads, or that say nothing it does not do.
const KNOWN_KEYS: [&str; 11] = [
    "block_count",
    "context_length",
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.freq_base",
    "rope.dimension_count",
    "shortconv.l_cache",
    "pooling_type",
];
/// Tensors of every layer, of those with attention, and of those with a short history.
const LAYER: [&str; 5] = ["attn_norm", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up"];
const ATTENTION: [&str; 6] =
    ["attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"];
const HISTORY: [&str; 3] = ["shortconv.in_proj", "shortconv.out_proj", "shortconv.conv"];

/// Whether [`TransformersRunner::load`] could, as far as metadata and names tell.
pub(super) fn check(gguf: &Gguf, options: &RunnerOptions) -> Result<(), ModelError> {
    if let Some(target) = options.quantize {
        let problem = format!("quantize {target}: models of this architecture are run as they are");
        return Err(ModelError::Limit(problem));
    }
    if gguf.paths().len() > 1 {
        return Err(split());
    }
    arch::check_against(gguf.metadata(), "lfm2", &KNOWN_KEYS)?;
    let sizes = sizes(gguf)?;
    let mut needed = HashSet::from(["token_embd.weight".to_owned()]);
    for (index, has_attention) in sizes.has_attention.iter().enumerate() {
        let mixer: &[&str] = if *has_attention { &ATTENTION } else { &HISTORY };
        let parts = LAYER.iter().chain(mixer);
        needed.extend(parts.map(|part| format!("blk.{index}.{part}.weight")));
    }
    if let Some(missing) = needed.iter().filter(|name| gguf.tensor(name).is_none()).min() {
        return Err(ModelError::MissingTensor(missing.clone()));
    }
    let outer = ["token_embd_norm.weight", "output_norm.weight", "output.weight"];
    let names = gguf.tensors().iter().map(|tensor| tensor.name.as_str());
    let unused: Vec<&str> =
        names.filter(|name| !needed.contains(*name) && !outer.contains(name)).take(4).collect();
    if unused.is_empty() {
        return Ok(());
    }
    let names = unused.join(", ");
    Err(ModelError::UnusedTensors { architecture: "lfm2".to_owned(), names })
}

/// See [`super::load::kv_figures`].
pub(super) fn kv_figures(gguf: &Gguf) -> Result<(usize, usize), ModelError> {
    sizes(gguf).map(|sizes| (sizes.context, sizes.kv_bytes_per_block))
}

fn split() -> ModelError {
    ModelError::Limit("split files of this architecture are not supported".to_owned())
}

/// Only the first piece may be longer than a token: later ones would not see the short histories.
fn piece_len(at: usize, len: usize) -> usize {
    if at > 0 {
        return 1;
    }
    let most = len.min(MAX_PIECE);
    1 << most.ilog2()
}

fn sizes(gguf: &Gguf) -> Result<Sizes, ModelError> {
    let metadata = gguf.metadata();
    let bounded = |key: &str, max: u32| -> Result<usize, ModelError> {
        let key = format!("lfm2.{key}");
        let value = metadata.u32(&key)?.ok_or_else(|| ModelError::MissingKey(key.clone()))?;
        if (1..=max).contains(&value) {
            return Ok(value as usize);
        }
        Err(ModelError::BadKey { key, problem: format!("{value} is not within 1 and {max}") })
    };
    let layers = bounded("block_count", 1024)?;
    let hidden = bounded("embedding_length", 1 << 18)?;
    let heads = bounded("attention.head_count", 1024)?;
    let context = bounded("context_length", MAX_CONTEXT)?;
    bounded("shortconv.l_cache", 64)?;
    let key = "lfm2.attention.head_count_kv";
    let bad = |problem: String| ModelError::BadKey { key: key.to_owned(), problem };
    let kv_heads = metadata.u32s(key)?.ok_or_else(|| ModelError::MissingKey(key.to_owned()))?;
    if kv_heads.len() != 1 && kv_heads.len() != layers {
        return Err(bad(format!("{} values for {layers} layers", kv_heads.len())));
    }
    if hidden % heads != 0 || (hidden / heads) % 2 != 0 {
        let problem = format!("{hidden} does not divide into {heads} heads of even width");
        return Err(ModelError::BadKey { key: "lfm2.embedding_length".to_owned(), problem });
    }
    let divides = |count: &u32| *count == 0 || heads % *count as usize == 0;
    if let Some(count) = kv_heads.iter().find(|count| !divides(count)) {
        return Err(bad(format!("{count} does not divide {heads} heads")));
    }
    let name = "token_embd.weight";
    let table = gguf.tensor(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
    let vocabulary = metadata.strings("tokenizer.ggml.tokens")?.map_or(0, <[_]>::len);
    if table.shape != [vocabulary, hidden] {
        return Err(ModelError::Shape {
            name: name.to_owned(),
            found: table.shape.clone(),
            expected: vec![vocabulary, hidden],
        });
    }
    let kv_heads = match kv_heads.as_slice() {
        [all] => vec![*all; layers],
        each => each.to_vec(),
    };
    let total: usize = kv_heads.iter().map(|count| *count as usize).sum();
    Ok(Sizes {
        context,
        vocab_size: vocabulary,
        // Keys and values in f32.
        kv_bytes_per_block: total * (hidden / heads) * 2 * 4 * BLOCK,
        embedding_bytes: vocabulary * hidden * 4,
        has_attention: kv_heads.iter().map(|count| *count > 0).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_powers_of_two_and_then_single() {
        let cases = [
            ((0, 1), 1),
            ((0, 2), 2),
            ((0, 3), 2),
            ((0, 511), 256),
            ((0, 9000), 512),
            ((2, 3), 1),
            ((512, 9000), 1),
        ];
        for ((at, len), expected) in cases {
            assert_eq!(piece_len(at, len), expected, "{at} of {len}");
        }
    }
}
