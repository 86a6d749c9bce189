//! What is registered: the name of an engine, where its model comes from and how to load it.

use std::time::Duration;

use crate::chat::TextDefaults;
use crate::config::check_engine_id;
use crate::config::limits::{MAIN_GPU_ID, N_BATCH, N_CTX, N_GPU_LAYERS, N_PARALLEL};
use crate::error::{Error, Kind, Result};
use crate::model::Quantize;

/// One registered engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSpec {
    /// The `engine_id`, which is the `model` of a request.
    pub id: String,
    /// The model file as a person names it: a path, `hf:org/repo:quant`, a URL or a catalogue name.
    pub reference: String,
    pub params: LoadParams,
    /// How texts are treated where a request says nothing.
    pub text: TextDefaults,
    /// Unload after this long without use: `None` = the registry's default, zero = never.
    pub idle_timeout: Option<Duration>,
    /// Never evicted and never unloaded for idleness.
    pub pinned: bool,
}

impl EngineSpec {
    /// A spec with default parameters.
    #[must_use]
    pub fn new(id: impl Into<String>, reference: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            reference: reference.into(),
            params: LoadParams::default(),
            text: TextDefaults::default(),
            idle_timeout: None,
            pinned: false,
        }
    }

    /// Checks id, reference and parameters.
    ///
    /// # Errors
    /// [`Kind::Invalid`] naming the field, the limit and the value.
    pub fn validate(&self) -> Result<()> {
        check_engine_id(&self.id)
            .map_err(|problem| Error::invalid("engine_id", format!("engine_id {problem}")))?;
        if self.reference.trim().is_empty() {
            return Err(Error::invalid("model_path", "model_path is empty"));
        }
        self.params.validate()
    }
}

/// How to load a model; the seed's `loading_parameters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadParams {
    /// Context of one sequence in tokens, 1..=1,000,000; the model's own limit holds as well.
    pub n_ctx: u32,
    /// Tokens kept at the front when a context is shifted, `0..=n_ctx`. Checked and shown, but without
    /// effect: contexts are not shifted, a request that does not fit is refused.
    pub n_keep: u32,
    /// Sequences that run at once, 1..=256.
    pub n_parallel: u32,
    /// Bound of `n_ubatch`, 1..=8192.
    pub n_batch: u32,
    /// Rows of one step at most, `1..=n_batch`; raised to `n_parallel`, so that each sequence has one.
    pub n_ubatch: u32,
    /// 0 = run on the CPU; up to 1000 = on the GPU, if there is one, with all layers.
    pub n_gpu_layers: u32,
    /// Which GPU; -1 = the first usable, up to 15.
    pub main_gpu_id: i32,
    /// Read weights from the file as they are needed instead of the whole file at first.
    pub use_mmap: bool,
    /// Weights are locked in memory, as far as the system lets it.
    pub use_mlock: bool,
    /// Without it, sequences run one after the other.
    pub cont_batching: bool,
    /// Run one token through the model before the engine is ready.
    pub warmup: bool,
    /// Bring matrices in floats to this type.
    pub quantize: Option<Quantize>,
}

/// As in the seed, but for `n_parallel`, which was 1: sequences cost nothing until they run; and for
/// `use_mlock`, which was true: few systems let a program lock so much.
impl Default for LoadParams {
    fn default() -> Self {
        Self {
            n_ctx: 0,
            n_keep: 2048,
            n_parallel: 16,
            n_batch: 2048,
            n_ubatch: 512,
            n_gpu_layers: 100,
            main_gpu_id: 0,
            use_mmap: true,
            use_mlock: false,
            cont_batching: true,
            warmup: false,
            quantize: None,
        }
    }
}

impl LoadParams {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Kind::Invalid`] with the field's path, such as `loading_parameters.n_ctx`.
    pub fn validate(&self) -> Result<()> {
        within("n_ctx", self.n_ctx, N_CTX)?;
        let most = if self.n_ctx == 0 { N_CTX.1 } else { i64::from(self.n_ctx) };
        within("n_keep", self.n_keep, (0, most))?;
        within("n_parallel", self.n_parallel, N_PARALLEL)?;
        within("n_batch", self.n_batch, N_BATCH)?;
        within("n_ubatch", self.n_ubatch, (1, i64::from(self.n_batch)))?;
        within("n_gpu_layers", self.n_gpu_layers, N_GPU_LAYERS)?;
        within("main_gpu_id", self.main_gpu_id, MAIN_GPU_ID)
    }

    /// Brings `n_keep` within a context that is given; where the model's own is taken, it is not known yet.
    pub fn bound_n_keep(&mut self) {
        if self.n_ctx > 0 {
            self.n_keep = self.n_keep.min(self.n_ctx);
        }
    }

    /// Rows of one step at most.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        (self.n_ubatch as usize).max(self.max_running())
    }

    /// Sequences that run at once.
    #[must_use]
    pub fn max_running(&self) -> usize {
        if self.cont_batching { self.n_parallel as usize } else { 1 }
    }
}

fn within(name: &str, value: impl Into<i64>, (min, max): (i64, i64)) -> Result<()> {
    let value = value.into();
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let text = format!("{name} must be from {min} to {max}, is {value}");
    Err(Error::new(Kind::Invalid, text).with_param(format!("loading_parameters.{name}")))
}
