//! From a file and options to a [`Runner`].

use std::path::Path;

use candle_core::Device;

use super::arch;
use super::batch::BLOCK;
use super::decoder::{Capacity, Decoder};
use super::error::ModelError;
use super::gguf::{Access, Gguf, GgufError};
use super::ops::candle::CandleOps;
use super::ops::cpu::CpuOps;
use super::quantize::Quantize;
use super::runner::Runner;
use super::safetensors;
use super::spec::{HeadSpec, ModelSpec};
use super::threads;
use super::transformers::{self, TransformersRunner};
use super::weights::{self, Files};

/// How a model is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerOptions {
    /// Compute threads on the CPU; 0 = one for each core, or for each of `cpus`.
    pub threads: usize,
    /// Processors that the threads are bound to, one after the other; empty = to none.
    pub cpus: Vec<usize>,
    /// Positions that a sequence may have; capped by what the model was trained for.
    pub n_ctx: usize,
    /// Sequences that may run at once; sizes the KV pool.
    pub n_parallel: usize,
    /// Rows in one batch.
    pub max_rows: usize,
    /// Upper bound of the KV pool in bytes; the pool holds at least one full context regardless.
    pub max_kv_bytes: usize,
    pub device: DeviceChoice,
    /// Matrices in floats are brought to this type on the way into memory.
    pub quantize: Option<Quantize>,
    /// On the CPU, matrices are locked in memory as far as the system lets it.
    pub lock_weights: bool,
}

/// Where a model runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this build has support for one and one is there, else the CPU.
    #[default]
    Auto,
    /// Our kernels.
    Cpu,
    /// candle's portable CPU path: the oracle, for comparison.
    CandleCpu,
    /// The numbered GPU.
    Gpu(usize),
}

/// A kind of device, for people.
pub struct DeviceKind {
    /// As engines report it.
    pub name: &'static str,
    /// What the build needs.
    pub feature: &'static str,
    pub computes: &'static str,
}

/// All kinds.
pub const DEVICES: [DeviceKind; 3] = [
    DeviceKind { name: "cpu", feature: "none", computes: "kernels of our own" },
    DeviceKind { name: "cuda:N", feature: "`cuda`", computes: "candle" },
    DeviceKind { name: "metal:N", feature: "`metal`", computes: "candle" },
];

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            cpus: Vec::new(),
            n_ctx: 4096,
            n_parallel: 16,
            max_rows: 512,
            max_kv_bytes: 1 << 30,
            device: DeviceChoice::Auto,
            quantize: None,
            lock_weights: false,
        }
    }
}

/// Opens a model: a GGUF file, a directory with safetensors files, or one of these.
///
/// # Errors
/// See [`Gguf::open_with`] and [`safetensors::open`].
pub fn open(path: &Path, access: Access) -> Result<Gguf, GgufError> {
    if safetensors::is_model_dir(path) {
        return safetensors::open(path, access);
    }
    let is_safetensors =
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"));
    match path.parent().filter(|_| is_safetensors) {
        Some(dir) => safetensors::open(dir, access),
        None => Gguf::open_with(path, access),
    }
}

/// Loads a model.
///
/// # Errors
/// See [`ModelError`].
pub fn load_runner(gguf: &Gguf, options: &RunnerOptions) -> Result<Box<dyn Runner>, ModelError> {
    if arch::is_through_transformers(gguf.metadata().architecture()?) {
        let device = device(&options.device)?.unwrap_or(Device::Cpu);
        return Ok(Box::new(TransformersRunner::load(gguf, options, device)?));
    }
    let model = arch::describe(gguf)?;
    let capacity = capacity(&model, options);
    let files = Files { gguf, quantize: options.quantize };
    match device(&options.device)? {
        Some(device) => {
            let ops = CandleOps::new(device);
            Ok(Box::new(Decoder::load(ops, model, files, capacity)?))
        }
        None => {
            let mut ops = CpuOps::new(threads::pool(options.threads, &options.cpus)?);
            if options.lock_weights {
                ops = ops.with_locked_weights();
            }
            Ok(Box::new(Decoder::load(ops, model, files, capacity)?))
        }
    }
}

/// Whether [`load_runner`] could: metadata understood, every tensor there, of the right shape and of a type
/// that can be computed with, and none left over. No weights are read.
///
/// # Errors
/// As [`load_runner`], but for what only bytes, memory or devices tell.
pub fn check(gguf: &Gguf, options: &RunnerOptions) -> Result<(), ModelError> {
    if arch::is_through_transformers(gguf.metadata().architecture()?) {
        return transformers::check(gguf, options);
    }
    let model = arch::describe(gguf)?;
    check_weights(&model, gguf, options)
}

fn check_weights(
    model: &ModelSpec,
    gguf: &Gguf,
    options: &RunnerOptions,
) -> Result<(), ModelError> {
    let files = Files { gguf, quantize: options.quantize };
    weights::check(model, files, capacity(model, options).context_len)
}

/// Bytes that [`load_runner`] will need: weights, KV pool and activations.
///
/// # Errors
/// As [`check`].
pub fn estimate_bytes(gguf: &Gguf, options: &RunnerOptions) -> Result<u64, ModelError> {
    if arch::is_through_transformers(gguf.metadata().architecture()?) {
        transformers::check(gguf, options)?;
        return transformers::estimate_bytes(gguf, options);
    }
    let model = arch::describe(gguf)?;
    check_weights(&model, gguf, options)?;
    let capacity = capacity(&model, options);
    let kv = model.kv_bytes_per_block() as u64 * capacity.num_blocks as u64;
    let widest = model.hidden.max(model.layers.iter().map(widest_row).max().unwrap_or(0));
    let activations = (widest * 4 * 6) as u64 * capacity.max_rows as u64
        + (model.vocab_size * 4 * options.n_parallel.max(1)) as u64;
    // The packed form of low-bit types is slightly larger than the file's.
    let weights = match options.quantize {
        None => gguf.file_bytes(),
        Some(target) => target.bytes_of(gguf),
    };
    Ok(weights + weights / 16 + kv + activations)
}

/// Positions that a model was trained for, and bytes of keys and values in one block.
///
/// # Errors
/// As [`check`], as far as metadata tells.
pub fn kv_figures(gguf: &Gguf) -> Result<(usize, usize), ModelError> {
    if arch::is_through_transformers(gguf.metadata().architecture()?) {
        return transformers::kv_figures(gguf);
    }
    let model = arch::describe(gguf)?;
    Ok((model.context_len, model.kv_bytes_per_block()))
}

fn widest_row(layer: &super::spec::LayerSpec) -> usize {
    use super::spec::FfnSpec;
    let ffn = match &layer.ffn {
        FfnSpec::Gated { width, .. } | FfnSpec::Plain { width, .. } => *width,
        FfnSpec::Moe(moe) => moe.width,
    };
    ffn.max(layer.attn.heads * layer.attn.head_dim)
}

fn capacity(model: &ModelSpec, options: &RunnerOptions) -> Capacity {
    let context_len = options.n_ctx.clamp(1, model.context_len);
    let one = context_len.div_ceil(BLOCK);
    let wanted = one * options.n_parallel.max(1);
    let affordable = options.max_kv_bytes / model.kv_bytes_per_block().max(1);
    // One block more than a full context: the prefix cache may hold a shared one.
    let num_blocks = wanted.min(affordable).max(one) + 1;
    // An encoder computes a text in one step.
    let least = if model.head == HeadSpec::Logits { 1 } else { context_len };
    Capacity { context_len, num_blocks, max_rows: options.max_rows.max(least) }
}

/// A candle device, or `None` for our own CPU kernels.
fn device(choice: &DeviceChoice) -> Result<Option<Device>, ModelError> {
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::CandleCpu => Ok(Some(Device::Cpu)),
        DeviceChoice::Auto => Ok(gpu(0).ok().flatten()),
        DeviceChoice::Gpu(index) => match gpu(*index) {
            Ok(Some(device)) => Ok(Some(device)),
            Ok(None) => Err(ModelError::Device {
                device: format!("gpu {index}"),
                problem: "this build has no GPU support (features: cuda, metal)".to_owned(),
            }),
            Err(error) => Err(ModelError::Device {
                device: format!("gpu {index}"),
                problem: error.to_string(),
            }),
        },
    }
}

/// The numbered GPU of this build's kind; `None` when the build has no support for any.
fn gpu(index: usize) -> Result<Option<Device>, candle_core::Error> {
    if candle_core::utils::cuda_is_available() {
        return Device::new_cuda(index).map(Some);
    }
    if candle_core::utils::metal_is_available() {
        return Device::new_metal(index).map(Some);
    }
    Ok(None)
}
