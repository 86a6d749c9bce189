//! A second opinion: the same file through candle-transformers, whose models were written by others.
//!
//! It computes one sequence at a time and is slow. Nothing is served with it; it is what the decoder's
//! logits are compared with on a user's own file (`kolosal selftest`) and in tests.

use std::fs::File;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::{
    quantized_gemma3, quantized_glm4, quantized_lfm2, quantized_llama, quantized_phi3,
    quantized_qwen2, quantized_qwen3,
};

use super::error::ModelError;
use super::gguf::Gguf;

/// Tokens of a prompt at most: what is compared does not depend on scaled positions then.
pub const MAX_TOKENS: usize = 64;

/// Families that candle-transformers reads from GGUF files as their converters write them.
pub const FAMILIES: [&str; 7] = ["llama", "qwen2", "qwen3", "gemma3", "phi3", "glm4", "lfm2"];

/// A model of candle-transformers.
enum Model {
    Llama(quantized_llama::ModelWeights),
    Qwen2(quantized_qwen2::ModelWeights),
    Qwen3(quantized_qwen3::ModelWeights),
    Gemma3(quantized_gemma3::ModelWeights),
    Phi3(quantized_phi3::ModelWeights),
    Glm4(quantized_glm4::ModelWeights),
    Lfm2(quantized_lfm2::ModelWeights),
}

/// Logits after the last of `tokens`, (vocabulary), by candle-transformers; `None` where it has no such
/// model, or none that this file's positions are right for. The file must be one that
/// [`check`](super::check) accepts.
///
/// # Errors
/// More than [`MAX_TOKENS`] tokens or none, a file in several parts, or candle's.
pub fn logits(gguf: &Gguf, tokens: &[u32]) -> Result<Option<Vec<f32>>, ModelError> {
    let family = gguf.metadata().architecture()?;
    let [path] = gguf.paths() else { return Ok(None) };
    let has_factors = ["rope_freqs.weight", "rope_factors_long.weight"];
    let is_scaled = gguf.metadata().str(&format!("{family}.rope.scaling.type"))?;
    if !FAMILIES.contains(&family)
        || has_factors.iter().any(|name| gguf.tensor(name).is_some())
        || is_scaled.is_some_and(|kind| kind != "none")
    {
        return Ok(None);
    }
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        let count = tokens.len();
        return Err(ModelError::Limit(format!("{count} tokens are not within 1 and {MAX_TOKENS}")));
    }
    let mut file = File::open(path).map_err(candle_core::Error::wrap)?;
    let content = Content::read(&mut file)?;
    let device = Device::Cpu;
    let mut model = match family {
        "llama" => {
            Model::Llama(quantized_llama::ModelWeights::from_gguf(content, &mut file, &device)?)
        }
        "qwen2" => {
            Model::Qwen2(quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &device)?)
        }
        "qwen3" => {
            Model::Qwen3(quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &device)?)
        }
        "gemma3" => {
            Model::Gemma3(quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &device)?)
        }
        "phi3" => Model::Phi3(quantized_phi3::ModelWeights::from_gguf(
            false, content, &mut file, &device,
        )?),
        "glm4" => Model::Glm4(quantized_glm4::ModelWeights::from_gguf(
            content,
            &mut file,
            &device,
            DType::F32,
        )?),
        _ => Model::Lfm2(quantized_lfm2::ModelWeights::from_gguf(content, &mut file, &device)?),
    };
    let input = Tensor::new(tokens, &device)?.unsqueeze(0)?;
    let logits = match &mut model {
        Model::Llama(model) => model.forward(&input, 0)?,
        Model::Qwen2(model) => model.forward(&input, 0)?,
        Model::Qwen3(model) => model.forward(&input, 0)?,
        Model::Gemma3(model) => model.forward(&input, 0)?,
        Model::Phi3(model) => model.forward(&input, 0)?,
        Model::Glm4(model) => model.forward(&input, 0)?,
        Model::Lfm2(model) => model.forward(&input, 0)?,
    };
    Ok(Some(logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?))
}
