//! From a file and options to a [`Runner`].

use std::path::Path;

use candle_core::Device;
use kolosal_kernels::attention::KvPool;

use super::arch;
use super::batch::BLOCK;
use super::decoder::{Capacity, Decoder};
use super::error::ModelError;
use super::gguf::{Access, Gguf, GgufError};
use super::memory;
use super::ops::KvBlocks;
use super::ops::candle::CandleOps;
use super::ops::cpu::CpuOps;
use super::options::{DeviceChoice, RunnerOptions};
use super::runner::Runner;
use super::safetensors;
use super::spec::ModelSpec;
use super::threads;
use super::weights::{self, Files};

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
/// See [`ModelError`]; one is that a file was written to meanwhile.
pub fn load_runner(gguf: &Gguf, options: &RunnerOptions) -> Result<Box<dyn Runner>, ModelError> {
    let runner = runner(gguf, options)?;
    gguf.check_unchanged()?;
    Ok(runner)
}

fn runner(gguf: &Gguf, options: &RunnerOptions) -> Result<Box<dyn Runner>, ModelError> {
    let Chosen { device, note } = device(&options.device)?;
    let model = arch::describe(gguf)?;
    let capacity = capacity(&model, options, weight_bytes(gguf, options));
    let files = Files { gguf, quantize: options.quantize };
    match device {
        Some(device) => {
            let ops = CandleOps::new(device);
            Ok(Box::new(Decoder::load(ops, model, files, capacity)?))
        }
        None => {
            let pool = threads::pool(options.threads, &options.cpus)?;
            let mut ops = CpuOps::new(pool).with_note(note);
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
    let model = arch::describe(gguf)?;
    check_weights(&model, gguf, options)
}

fn check_weights(
    model: &ModelSpec,
    gguf: &Gguf,
    options: &RunnerOptions,
) -> Result<(), ModelError> {
    let files = Files { gguf, quantize: options.quantize };
    let capacity = capacity(model, options, weight_bytes(gguf, options));
    weights::check(model, files, capacity.context_len)
}

/// Bytes that [`load_runner`] will need: weights, activations, and of the KV pool what must be there from
/// the beginning.
///
/// # Errors
/// As [`check`].
pub fn estimate_bytes(gguf: &Gguf, options: &RunnerOptions) -> Result<u64, ModelError> {
    let model = arch::describe(gguf)?;
    check_weights(&model, gguf, options)?;
    let weights = weight_bytes(gguf, options);
    let capacity = capacity(&model, options, weights);
    let block_bytes = model.kv_bytes_per_block();
    let KvBlocks { first, most } = capacity.blocks;
    let blocks = match grows(&options.device) {
        true => first.next_multiple_of(KvPool::piece_blocks(block_bytes, most)).min(most),
        false => most,
    };
    let kv = block_bytes as u64 * blocks as u64;
    let widest = model.hidden.max(model.layers.iter().map(widest_row).max().unwrap_or(0));
    let activations = (widest * 4 * 6) as u64 * capacity.max_rows as u64
        + (model.vocab_size * 4 * options.n_parallel.max(1)) as u64;
    let states = model.state_bytes() as u64 * capacity.states as u64;
    Ok(weights + kv + states + activations)
}

/// Bytes of the weights in memory: the packed form of low-bit types is slightly larger than the file's.
fn weight_bytes(gguf: &Gguf, options: &RunnerOptions) -> u64 {
    let bytes = match options.quantize {
        None => gguf.file_bytes(),
        Some(target) => target.bytes_of(gguf),
    };
    bytes + bytes / 16
}

/// Positions that a model was trained for, and bytes of keys and values in one block.
///
/// # Errors
/// As [`check`], as far as metadata tells.
pub fn kv_figures(gguf: &Gguf) -> Result<(usize, usize), ModelError> {
    let model = arch::describe(gguf)?;
    Ok((model.context_len, model.kv_bytes_per_block()))
}

fn widest_row(layer: &super::spec::LayerSpec) -> usize {
    use super::spec::{FfnSpec, MixerSpec};
    let ffn = match &layer.ffn {
        FfnSpec::Gated { width, .. } | FfnSpec::Plain { width, .. } => *width,
        FfnSpec::Moe(moe) => moe.width,
        FfnSpec::None => 0,
        FfnSpec::Both { width, moe } => moe.width.max(*width),
    };
    let mixer = match &layer.mixer {
        MixerSpec::Attention(attn) | MixerSpec::Latent { attn, .. } => attn.heads * attn.head_dim,
        MixerSpec::ShortConv(conv) => 3 * conv.width,
        MixerSpec::Delta(delta) => delta.channels(),
        MixerSpec::Ssm(ssm) => ssm.channels(),
        MixerSpec::Both { attn, ssm } => ssm.channels().max(attn.heads * attn.head_dim),
        MixerSpec::None => 0,
    };
    ffn.max(mixer)
}

fn capacity(model: &ModelSpec, options: &RunnerOptions, weight_bytes: u64) -> Capacity {
    let kv_bytes = kv_bytes(options, weight_bytes);
    let states = states(model.state_bytes(), options.n_parallel, kv_bytes);
    let left = kv_bytes.saturating_sub(states * model.state_bytes());
    let affordable = left / model.kv_bytes_per_block().max(1);
    let fitted = match options.n_ctx {
        0 if model.sees_later() => ENCODER_CONTEXT,
        0 => affordable.saturating_mul(BLOCK).max(LEAST_CONTEXT),
        given => given,
    };
    let context_len = fitted.clamp(1, model.context_len);
    let one = context_len.div_ceil(BLOCK);
    let wanted = one * options.n_parallel.max(1);
    // One block more than a full context: the prefix cache may hold a shared one.
    let blocks = KvBlocks { first: one + 1, most: wanted.min(affordable).max(one) + 1 };
    // Where tokens see later ones, a text is computed in one step.
    let least = if model.sees_later() { context_len } else { 1 };
    Capacity { context_len, blocks, states, max_rows: options.max_rows.max(least) }
}

/// Context where none is asked for and tokens see later ones: activations grow with it, as a text is
/// computed in one step.
const ENCODER_CONTEXT: usize = 4096;
/// The context that is fitted to memory is no shorter.
const LEAST_CONTEXT: usize = 2048;
/// Bytes for keys, values and states at least, where none are given.
const LEAST_KV_BYTES: u64 = 256 << 20;

/// Bytes for keys, values and states: as asked for, or a share of the machine.
fn kv_bytes(options: &RunnerOptions, weight_bytes: u64) -> usize {
    if options.max_kv_bytes > 0 {
        return options.max_kv_bytes;
    }
    let left = memory::limit().unwrap_or(4 << 30).saturating_sub(weight_bytes);
    usize::try_from((left / 4).max(LEAST_KV_BYTES)).unwrap_or(usize::MAX)
}

/// Pages for states of `page_bytes`: two for each sequence that runs, and some for snapshots, within a
/// quarter of `kv_bytes`. A sequence can always run.
fn states(page_bytes: usize, n_parallel: usize, kv_bytes: usize) -> usize {
    /// Of each sequence that may run: its own two, and what is kept of conversations.
    const PAGES: usize = 8;
    const LEAST: usize = 4;
    if page_bytes == 0 {
        return 0;
    }
    let wanted = PAGES * n_parallel.max(1);
    wanted.min(kv_bytes / 4 / page_bytes).max(LEAST)
}

/// Where a model is to run.
struct Chosen {
    /// `None`: our own CPU kernels.
    device: Option<Device>,
    /// Why it is not where one might expect.
    note: Option<String>,
}

fn device(choice: &DeviceChoice) -> Result<Chosen, ModelError> {
    let device = match choice {
        DeviceChoice::Cpu => None,
        DeviceChoice::CandleCpu => Some(Device::Cpu),
        DeviceChoice::Auto => return Ok(gpu_or_cpu(gpu(0))),
        DeviceChoice::Gpu(index) => match gpu(*index) {
            Ok(Some(device)) => Some(device),
            Ok(None) => {
                return Err(ModelError::Device {
                    device: format!("gpu {index}"),
                    problem: "this build has no GPU support (features: cuda, metal)".to_owned(),
                });
            }
            Err(error) => {
                return Err(ModelError::Device {
                    device: format!("gpu {index}"),
                    problem: error.to_string(),
                });
            }
        },
    };
    Ok(Chosen { device, note: None })
}

/// The GPU if there is one that works; one that does not is told of.
fn gpu_or_cpu(gpu: Result<Option<Device>, candle_core::Error>) -> Chosen {
    match gpu {
        Ok(device) => Chosen { device, note: None },
        Err(error) => {
            let note = format!("the GPU cannot be used, the CPU computes instead: {error}");
            tracing::warn!("{note}");
            Chosen { device: None, note: Some(note) }
        }
    }
}

/// Whether the KV pool grows with its use there: on GPUs it is had as a whole.
fn grows(choice: &DeviceChoice) -> bool {
    let has_gpus =
        candle_core::utils::cuda_is_available() || candle_core::utils::metal_is_available();
    match choice {
        DeviceChoice::Cpu => true,
        DeviceChoice::Auto => !has_gpus,
        DeviceChoice::CandleCpu | DeviceChoice::Gpu(_) => false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_fails_is_told_of() {
        let failed = Err(candle_core::Error::Msg("driver too old".to_owned()));
        let Chosen { device, note } = gpu_or_cpu(failed);
        assert!(device.is_none());
        assert!(note.is_some_and(|note| note.contains("driver too old")), "the reason is there");
        let Chosen { device, note } = gpu_or_cpu(Ok(None));
        assert!(device.is_none() && note.is_none(), "no GPU is no failure");
    }
}
