//! One small file a family: metadata in, [`ModelSpec`] out. Nothing here computes.

mod alibi;
mod bailing;
mod bert;
mod cohere;
mod dbrx;
mod deepseek;
mod dense;
mod ernie;
mod exaone;
mod gemma;
mod glm;
mod gpt;
mod gpt_oss;
mod granite;
mod hunyuan;
mod keys;
mod llama;
mod llama4;
mod minicpm;
mod mistral;
mod olmo;
mod phi;
mod qwen;
mod unread;

use keys::Keys;
pub(super) use unread::check_against;

use super::error::ModelError;
use super::gguf::Gguf;
use super::runner::Pooling;
use super::spec::{AttnSpec, FfnSpec, HeadSpec, LayerSpec, ModelSpec, MoeSpec, RopeSpec};

/// A family that the decoder can run.
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Models that use it.
    pub models: &'static str,
    /// What its logits have been compared with.
    pub proof: Proof,
    describe: fn(&Keys<'_>) -> Result<ModelSpec, ModelError>,
}

/// What tiny models of a family have been compared with, value by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// transformers' own class of the family.
    Own,
    /// transformers' class of a relative, which computes the same as far as the family's papers and other
    /// programs tell: unproven.
    Relative,
    /// A class written for the comparison, as transformers has none: unproven.
    Ours,
}

impl Proof {
    /// For tables: whom the family has been compared with.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Own => "transformers",
            Self::Relative => "unproven: compared with transformers' class of a relative",
            Self::Ours => "unproven: compared with a class of our own",
        }
    }
}

/// All of them.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        models: "Llama 1–3, SmolLM, Mistral, Mixtral, TinyLlama, InternLM 3 and relatives",
        proof: Proof::Own,
        describe: llama::llama,
    },
    Architecture {
        name: "llama4",
        models: "Llama 4 (text)",
        proof: Proof::Own,
        describe: llama4::llama4,
    },
    Architecture {
        name: "mistral3",
        models: "Ministral 3",
        proof: Proof::Own,
        describe: mistral::mistral3,
    },
    Architecture {
        name: "smollm3",
        models: "SmolLM 3",
        proof: Proof::Own,
        describe: llama::smollm3,
    },
    Architecture {
        name: "internlm2",
        models: "InternLM 2",
        proof: Proof::Relative,
        describe: llama::llama,
    },
    Architecture {
        name: "baichuan",
        models: "Baichuan 7B and 13B",
        proof: Proof::Relative,
        describe: llama::baichuan,
    },
    Architecture {
        name: "xverse",
        models: "XVERSE",
        proof: Proof::Relative,
        describe: llama::llama,
    },
    Architecture { name: "plamo", models: "PLaMo 1", proof: Proof::Ours, describe: llama::plamo },
    Architecture { name: "arcee", models: "Arcee AFM", proof: Proof::Own, describe: dense::arcee },
    Architecture {
        name: "apertus",
        models: "Apertus",
        proof: Proof::Own,
        describe: dense::apertus,
    },
    Architecture {
        name: "seed_oss",
        models: "Seed-OSS",
        proof: Proof::Own,
        describe: dense::seed_oss,
    },
    Architecture {
        name: "minicpm",
        models: "MiniCPM 1 and 2",
        proof: Proof::Relative,
        describe: minicpm::minicpm,
    },
    Architecture {
        name: "minicpm3",
        models: "MiniCPM 3",
        proof: Proof::Own,
        describe: minicpm::minicpm3,
    },
    Architecture { name: "qwen", models: "Qwen 1", proof: Proof::Relative, describe: qwen::qwen },
    Architecture {
        name: "qwen2",
        models: "Qwen 1.5, 2 and 2.5",
        proof: Proof::Own,
        describe: qwen::qwen2,
    },
    Architecture {
        name: "qwen2moe",
        models: "Qwen 1.5 MoE, Qwen 2 MoE",
        proof: Proof::Own,
        describe: qwen::qwen2moe,
    },
    Architecture {
        name: "qwen2vl",
        models: "Qwen 2 and 2.5 VL (text)",
        proof: Proof::Own,
        describe: qwen::qwen2,
    },
    Architecture { name: "qwen3", models: "Qwen 3", proof: Proof::Own, describe: qwen::qwen3 },
    Architecture {
        name: "qwen3moe",
        models: "Qwen 3 MoE",
        proof: Proof::Own,
        describe: qwen::qwen3moe,
    },
    Architecture {
        name: "qwen3vl",
        models: "Qwen 3 VL (text)",
        proof: Proof::Own,
        describe: qwen::qwen3,
    },
    Architecture {
        name: "qwen3vlmoe",
        models: "Qwen 3 VL MoE (text)",
        proof: Proof::Own,
        describe: qwen::qwen3moe,
    },
    Architecture { name: "gemma", models: "Gemma 1", proof: Proof::Own, describe: gemma::gemma },
    Architecture { name: "gemma2", models: "Gemma 2", proof: Proof::Own, describe: gemma::gemma2 },
    Architecture {
        name: "gemma3",
        models: "Gemma 3 (text)",
        proof: Proof::Own,
        describe: gemma::gemma3,
    },
    Architecture {
        name: "gemma3n",
        models: "Gemma 3n (text)",
        proof: Proof::Own,
        describe: gemma::gemma3n,
    },
    Architecture {
        name: "phi2",
        models: "Phi 1, 1.5 and 2",
        proof: Proof::Own,
        describe: phi::phi2,
    },
    Architecture {
        name: "phi3",
        models: "Phi 3, 3.5 and 4",
        proof: Proof::Own,
        describe: phi::phi3,
    },
    Architecture {
        name: "phimoe",
        models: "Phi 3.5 MoE",
        proof: Proof::Own,
        describe: phi::phimoe,
    },
    Architecture { name: "olmo", models: "OLMo 1", proof: Proof::Own, describe: olmo::olmo },
    Architecture {
        name: "olmo2",
        models: "OLMo 2 and 3",
        proof: Proof::Own,
        describe: olmo::olmo2,
    },
    Architecture { name: "olmoe", models: "OLMoE", proof: Proof::Own, describe: olmo::olmoe },
    Architecture {
        name: "granite",
        models: "Granite 3",
        proof: Proof::Own,
        describe: granite::granite,
    },
    Architecture {
        name: "granitemoe",
        models: "Granite 3 MoE",
        proof: Proof::Own,
        describe: granite::granitemoe,
    },
    Architecture {
        name: "chatglm",
        models: "ChatGLM 3, GLM-4, GLM-Edge",
        proof: Proof::Relative,
        describe: glm::chatglm,
    },
    Architecture { name: "glm4", models: "GLM-4 (0414)", proof: Proof::Own, describe: glm::glm4 },
    Architecture {
        name: "glm4moe",
        models: "GLM-4.5, 4.6 and 4.7",
        proof: Proof::Own,
        describe: glm::glm4moe,
    },
    Architecture {
        name: "command-r",
        models: "Command R",
        proof: Proof::Own,
        describe: cohere::command_r,
    },
    Architecture {
        name: "cohere2",
        models: "Command R7B, Command A",
        proof: Proof::Own,
        describe: cohere::cohere2,
    },
    Architecture {
        name: "deepseek",
        models: "DeepSeek MoE 16B",
        proof: Proof::Relative,
        describe: deepseek::deepseek,
    },
    Architecture {
        name: "deepseek2",
        models: "DeepSeek V2, V3 and R1, Kimi K2, GLM-4.7-Flash, GigaChat 3",
        proof: Proof::Own,
        describe: deepseek::deepseek2,
    },
    Architecture {
        name: "dots1",
        models: "dots.llm1",
        proof: Proof::Own,
        describe: deepseek::dots1,
    },
    Architecture {
        name: "minimax-m2",
        models: "MiniMax M2",
        proof: Proof::Own,
        describe: deepseek::minimax_m2,
    },
    Architecture {
        name: "bailingmoe",
        models: "Ling 1",
        proof: Proof::Relative,
        describe: bailing::bailingmoe,
    },
    Architecture {
        name: "bailingmoe2",
        models: "Ling 2",
        proof: Proof::Relative,
        describe: bailing::bailingmoe2,
    },
    Architecture {
        name: "ernie4_5",
        models: "ERNIE 4.5",
        proof: Proof::Own,
        describe: ernie::ernie4_5,
    },
    Architecture {
        name: "ernie4_5-moe",
        models: "ERNIE 4.5 MoE",
        proof: Proof::Own,
        describe: ernie::ernie4_5_moe,
    },
    Architecture {
        name: "exaone",
        models: "EXAONE 3 and 3.5",
        proof: Proof::Relative,
        describe: exaone::exaone,
    },
    Architecture {
        name: "exaone4",
        models: "EXAONE 4",
        proof: Proof::Own,
        describe: exaone::exaone4,
    },
    Architecture {
        name: "exaone-moe",
        models: "K-EXAONE",
        proof: Proof::Own,
        describe: exaone::exaone_moe,
    },
    Architecture {
        name: "hunyuan-dense",
        models: "Hunyuan",
        proof: Proof::Own,
        describe: hunyuan::dense,
    },
    Architecture {
        name: "hunyuan-moe",
        models: "Hunyuan A13B",
        proof: Proof::Own,
        describe: hunyuan::moe,
    },
    Architecture {
        name: "nemotron",
        models: "Nemotron 3 and 4, Minitron",
        proof: Proof::Own,
        describe: gpt::nemotron,
    },
    Architecture { name: "gpt2", models: "GPT-2", proof: Proof::Own, describe: gpt::gpt2 },
    Architecture {
        name: "starcoder",
        models: "StarCoder 1, SantaCoder",
        proof: Proof::Own,
        describe: gpt::gpt2,
    },
    Architecture {
        name: "gptneox",
        models: "GPT-NeoX, Pythia",
        proof: Proof::Own,
        describe: gpt::gptneox,
    },
    Architecture {
        name: "starcoder2",
        models: "StarCoder 2",
        proof: Proof::Own,
        describe: gpt::starcoder2,
    },
    Architecture {
        name: "codeshell",
        models: "CodeShell",
        proof: Proof::Relative,
        describe: gpt::starcoder2,
    },
    Architecture {
        name: "orion",
        models: "Orion 14B",
        proof: Proof::Relative,
        describe: gpt::orion,
    },
    Architecture {
        name: "stablelm",
        models: "StableLM",
        proof: Proof::Own,
        describe: gpt::stablelm,
    },
    Architecture {
        name: "falcon",
        models: "Falcon 7B and 40B",
        proof: Proof::Own,
        describe: gpt::falcon,
    },
    Architecture { name: "dbrx", models: "DBRX", proof: Proof::Own, describe: dbrx::dbrx },
    Architecture { name: "bloom", models: "BLOOM", proof: Proof::Own, describe: alibi::bloom },
    Architecture { name: "mpt", models: "MPT", proof: Proof::Own, describe: alibi::mpt },
    Architecture { name: "refact", models: "Refact", proof: Proof::Ours, describe: alibi::refact },
    Architecture { name: "jais", models: "JAIS", proof: Proof::Ours, describe: alibi::jais },
    Architecture {
        name: "gpt-oss",
        models: "gpt-oss",
        proof: Proof::Own,
        describe: gpt_oss::gpt_oss,
    },
];

/// Encoders: embeddings and scores, no text.
pub const ENCODERS: &[Architecture] = &[
    Architecture {
        name: "bert",
        models: "BERT, MiniLM, BGE, E5, GTE, XLM-RoBERTa and relatives",
        proof: Proof::Own,
        describe: bert::bert,
    },
    Architecture {
        name: "nomic-bert",
        models: "Nomic Embed 1",
        proof: Proof::Own,
        describe: bert::nomic_bert,
    },
    Architecture {
        name: "jina-bert-v2",
        models: "Jina Embeddings 2",
        proof: Proof::Ours,
        describe: bert::jina_bert_v2,
    },
    Architecture {
        name: "modern-bert",
        models: "ModernBERT and relatives",
        proof: Proof::Own,
        describe: bert::modern_bert,
    },
];

/// Families that candle-transformers runs for us, one sequence at a time: names and models.
pub const THROUGH_TRANSFORMERS: &[(&str, &str)] = &[("lfm2", "LFM 2")];

/// What a family has been compared with; `None` for one that is not known.
#[must_use]
pub fn proof(name: &str) -> Option<Proof> {
    let own = all().find(|known| known.name == name).map(|known| known.proof);
    own.or_else(|| is_through_transformers(name).then_some(Proof::Own))
}

/// Whether a family is one of [`THROUGH_TRANSFORMERS`].
#[must_use]
pub fn is_through_transformers(name: &str) -> bool {
    THROUGH_TRANSFORMERS.iter().any(|(known, _)| *known == name)
}

/// Names of all families that can be run.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|known| known.name).chain(THROUGH_TRANSFORMERS.iter().map(|(name, _)| *name))
}

/// Every family of ours, decoders first.
pub fn all() -> impl Iterator<Item = &'static Architecture> {
    ARCHITECTURES.iter().chain(ENCODERS)
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
        HeadSpec::Logits | HeadSpec::None | HeadSpec::Norm => keys.pooling()?,
    };
    let key = keys.key("attention.causal");
    if spec.head == HeadSpec::Logits && metadata.bool(&key)? == Some(false) {
        let problem = "attention to later tokens is not supported here".to_owned();
        return Err(ModelError::BadKey { key, problem });
    }
    unread::check(&keys, &spec)?;
    check(&spec)?;
    Ok(spec)
}

/// Whatever the family, a file may say what scores are multiplied by. Latent attention has a scale that
/// comes of several keys; there this one stays unread.
fn scale_scores(keys: &Keys<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    if spec.layers.iter().any(|layer| layer.attn.latent.is_some()) {
        return Ok(());
    }
    if let Some(scale) = keys.f32("attention.scale")?.filter(|scale| *scale != 0.0) {
        spec.layers.iter_mut().for_each(|layer| layer.attn.scale = scale);
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
    for layer in spec.layers.iter_mut().filter(|layer| unread::is_local(&layer.attn)) {
        layer.attn.rope = layer.attn.rope.map(|_| 1);
    }
    Ok(())
}

/// Bounds that keep absurd files from absurd allocations.
fn check(spec: &ModelSpec) -> Result<(), ModelError> {
    limit("layer count", spec.layers.len(), 1024)?;
    limit("hidden size", spec.hidden, 1 << 18)?;
    limit("vocabulary size", spec.vocab_size, 1 << 24)?;
    limit("context length", spec.context_len, 1 << 28)?;
    if let Some(altup) = &spec.altup {
        limit("residual stream count", altup.streams, 16)?;
        limit("width of a layer's input", altup.width, 1 << 14)?;
        limit("rank of the way past attention", altup.rank, 1 << 14)?;
    }
    for LayerSpec { attn, ffn, .. } in &spec.layers {
        check_attention(spec, attn)?;
        match ffn {
            FfnSpec::Gated { width, .. } | FfnSpec::Plain { width, .. } => {
                limit("feed-forward width", *width, 1 << 20)?;
            }
            FfnSpec::Moe(moe) => check_experts(moe)?,
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

fn check_attention(spec: &ModelSpec, attn: &AttnSpec) -> Result<(), ModelError> {
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
    if let Some(latent) = attn.latent {
        limit("width of a head's still part", latent.still, 4096)?;
        limit("width of a head's value", latent.value, 4096)?;
        limit("rank of the queries", latent.q_rank.unwrap_or(1), 1 << 18)?;
    }
    if let Some(temperature) = attn.temperature {
        limit("step of the attention temperature", temperature.floor, 1 << 28)?;
    }
    let turned = attn.latent.map_or(attn.head_dim, |latent| latent.turned);
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

fn check_experts(moe: &MoeSpec) -> Result<(), ModelError> {
    limit("expert count", moe.experts, 4096)?;
    limit("used expert count", moe.used, moe.experts)?;
    limit("expert width", moe.width, 1 << 20)?;
    limit("width of the shared experts", moe.shared_width.unwrap_or(1), 1 << 20)?;
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
