//! What families there are: a file for each, with its models and how metadata becomes a [`ModelSpec`].
//! Nothing here computes. A file bears the family's name, its rows those of `general.architecture`.

mod afmoe;
mod alibi;
mod apertus;
mod arcee;
mod baichuan;
mod bailing;
mod bert;
mod bloom;
mod bounds;
mod cohere;
mod dbrx;
mod deepseek;
mod dots;
mod ernie;
mod exaone;
mod falcon;
mod family;
mod gemma;
mod gemma4;
mod glm;
mod gpt2;
mod gpt_oss;
mod gptneox;
mod granite;
mod hunyuan;
mod internlm;
mod jais;
mod keys;
mod laguna;
mod lfm2;
mod llama;
mod llama4;
mod maincoder;
mod mamba;
mod maple;
mod mellum;
mod mimo;
mod minicpm;
mod minimax;
mod mistral;
mod mpt;
mod muse;
mod nemotron;
mod olmo;
mod openelm;
mod orion;
mod pangu;
mod phi;
mod plamo;
mod qwen;
mod refact;
mod seed_oss;
mod smallthinker;
mod smollm;
mod stablelm;
mod starcoder;
mod step;
mod unread;
mod xverse;

pub use family::{Architecture, Proof};
use keys::Keys;

use super::error::ModelError;
use super::gguf::Gguf;
use super::runner::Pooling;
use super::spec::{HeadSpec, ModelSpec, RopeSpec};

/// Families that write text.
const DECODERS: &[&[Architecture]] = &[
    llama::FAMILY,
    llama4::FAMILY,
    llama::DECI,
    muse::FAMILY,
    mistral::FAMILY,
    smallthinker::FAMILY,
    smollm::FAMILY,
    internlm::FAMILY,
    baichuan::FAMILY,
    xverse::FAMILY,
    plamo::FAMILY,
    arcee::FAMILY,
    afmoe::FAMILY,
    apertus::FAMILY,
    seed_oss::FAMILY,
    minicpm::FAMILY,
    qwen::FAMILY,
    gemma::FAMILY,
    gemma4::FAMILY,
    phi::FAMILY,
    olmo::FAMILY,
    granite::FAMILY,
    glm::FAMILY,
    cohere::FAMILY,
    deepseek::FAMILY,
    dots::FAMILY,
    minimax::FAMILY,
    bailing::FAMILY,
    ernie::FAMILY,
    exaone::FAMILY,
    hunyuan::FAMILY,
    laguna::FAMILY,
    maincoder::FAMILY,
    maple::FAMILY,
    mellum::FAMILY,
    openelm::FAMILY,
    pangu::FAMILY,
    mimo::FAMILY,
    step::FAMILY,
    nemotron::FAMILY,
    gpt2::FAMILY,
    gptneox::FAMILY,
    starcoder::FAMILY,
    orion::FAMILY,
    stablelm::FAMILY,
    falcon::FAMILY,
    dbrx::FAMILY,
    bloom::FAMILY,
    mpt::FAMILY,
    refact::FAMILY,
    jais::FAMILY,
    gpt_oss::FAMILY,
    lfm2::FAMILY,
    mamba::FAMILY,
];
/// Encoders: embeddings and scores, no text.
const ENCODERS: &[&[Architecture]] = &[bert::FAMILY, llama::ENCODERS, gemma::ENCODER];

/// What a family has been compared with; `None` for one that is not known.
#[must_use]
pub fn proof(name: &str) -> Option<Proof> {
    all().find(|known| known.name == name).map(|known| known.proof)
}

/// Names of all families that can be run.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|known| known.name)
}

/// Every family of ours, decoders first.
pub fn all() -> impl Iterator<Item = &'static Architecture> {
    decoders().chain(ENCODERS.iter().flat_map(|family| family.iter()))
}

/// Those that write text.
pub fn decoders() -> impl Iterator<Item = &'static Architecture> {
    DECODERS.iter().flat_map(|family| family.iter())
}

/// Describes the model of a file.
///
/// # Errors
/// An unknown architecture (the error lists the known ones), or a key that is missing or absurd.
pub fn describe(gguf: &Gguf) -> Result<ModelSpec, ModelError> {
    let metadata = gguf.metadata();
    let name = metadata.architecture()?;
    let Some(architecture) = all().find(|known| known.name == name) else {
        let known: Vec<&str> = names().collect();
        return Err(ModelError::UnknownArchitecture(name.to_owned(), known.join(", ")));
    };
    let keys = Keys::new(gguf, name);
    let mut spec = (architecture.describe)(&keys)?;
    scale_scores(&keys, &mut spec)?;
    turn_windows(&keys, &mut spec)?;
    spec.pooling = match spec.head {
        // Scores come from the first token, whether the file says so or not.
        HeadSpec::Classifier { .. } => Pooling::First,
        HeadSpec::YesNo => Pooling::Last,
        HeadSpec::Logits | HeadSpec::None | HeadSpec::Norm | HeadSpec::Dense { .. } => {
            keys.pooling()?
        }
    };
    let key = keys.key("attention.causal");
    if !spec.sees_later() && metadata.bool(&key)? == Some(false) {
        let problem = "attention to later tokens is not supported here".to_owned();
        return Err(ModelError::BadKey { key, problem });
    }
    unread::check(&keys, &spec)?;
    bounds::check(&spec)?;
    Ok(spec)
}

/// Whatever the family, a file may say what scores are multiplied by. Latent attention has a scale that
/// comes of several keys; there this one stays unread.
fn scale_scores(keys: &Keys<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    if spec.layers.iter().any(|layer| layer.latent().is_some()) {
        return Ok(());
    }
    if let Some(scale) = keys.f32("attention.scale")?.filter(|scale| *scale != 0.0) {
        for layer in spec.layers.iter_mut().filter(|layer| layer.attn().is_some()) {
            layer.attn_mut().scale = scale;
        }
    }
    Ok(())
}

/// Layers that see a window may have a base of their own in families whose published models have none.
fn turn_windows(keys: &Keys<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let [rope] = spec.ropes.as_slice() else { return Ok(()) };
    let key = "rope.freq_base_swa";
    if !keys.unread().iter().any(|(unread, _)| *unread == key) {
        return Ok(());
    }
    let Some(base) = keys.f32(key)?.filter(|base| *base > 0.0) else { return Ok(()) };
    let local = RopeSpec { base, ..rope.clone() };
    spec.ropes.push(local);
    for layer in spec.layers.iter_mut().filter(|layer| layer.attn().is_some_and(unread::is_local)) {
        let attn = layer.attn_mut();
        attn.rope = attn.rope.map(|_| 1);
    }
    Ok(())
}
