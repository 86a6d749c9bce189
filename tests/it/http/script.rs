//! Models that say what a test tells them to, as far as a constraint lets them, and a tiny real one.

use std::path::Path;
use std::sync::Arc;

use kolosal_server::{
    chat::{
        Special, TextModel, TextOptions,
        conversation::{ChatInput, Message, Role},
    },
    engine::{Engine, EngineConfig},
    error::Result,
    model::{
        Batch, Logits, Pooling, Runner, RunnerError, RunnerOptions, RunnerSpec,
        gguf::{Gguf, Value},
        load_runner,
    },
    registry::{EngineSpec, Loaded, Loader, ModelInfo},
};

use tokio_util::sync::CancellationToken;

use crate::tiny::{Tiny, byte_text_model, with_text};

/// Tokens beside the bytes, all of them control tokens.
const CONTROLS: &[&str] = &[
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|start|>",
    "<|end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
];
const VOCABULARY: usize = 256 + CONTROLS.len();
const END: u32 = 256;
/// Where a document has this control character, the step fails that would say it.
const TORN: u32 = 7;
const CONTEXT: usize = 4096;

/// Knows a document by heart and says it after a prompt of a known length.
struct Recital {
    spec: RunnerSpec,
    prompt_len: usize,
    document: Vec<u32>,
}

impl Runner for Recital {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError> {
        let mut data = vec![0.0; batch.logit_rows.len() * VOCABULARY];
        for (row, logits) in batch.logit_rows.iter().zip(data.chunks_exact_mut(VOCABULARY)) {
            let at = (batch.positions[*row as usize] as usize + 1).checked_sub(self.prompt_len);
            let next = at.and_then(|at| self.document.get(at)).copied().unwrap_or(END);
            if next == TORN {
                return Err(RunnerError("a note is torn".to_owned()));
            }
            logits[next as usize] = 20.0;
        }
        Ok(Logits { data: data.into(), vocab_size: VOCABULARY })
    }
}

/// The file that a reference names: `tiny`, `tiny qwen35`, `tiny lfm2`, or `fixture` and a path.
fn tiny(reference: &str) -> Gguf {
    let template = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
    if let Some(path) = reference.strip_prefix("fixture ") {
        return with_text(path, template);
    }
    let tiny = match reference.strip_prefix("tiny ") {
        Some("lfm2") => Tiny::hybrid("lfm2"),
        Some(_) => Tiny::hybrid("qwen35"),
        None => Tiny::default(),
    };
    let mut extra = tiny.extra.clone();
    extra.push(("tokenizer.chat_template", Value::from(template)));
    Tiny { context: 1024, extra, ..tiny }.gguf()
}

/// Loads `TEMPLATE => ANSWER`, where the template writes the same whatever it is given, or a file of [`tiny`].
/// Calls of a template with `FREE` in it are not constrained unless their tools are strict.
pub(super) struct ScriptLoader;

impl Loader for ScriptLoader {
    fn estimate(&self, _: &EngineSpec, _: &Path) -> Result<u64> {
        Ok(1)
    }

    fn load(&self, spec: &EngineSpec, _: &Path, _: &CancellationToken) -> Result<Loaded> {
        let config = EngineConfig { name: spec.id.clone(), ..EngineConfig::default() };
        let info = ModelInfo { context_len: CONTEXT, chat_template: true, ..ModelInfo::default() };
        let Some((template, answer)) = spec.reference.split_once(" => ") else {
            let gguf = tiny(&spec.reference);
            let text = Arc::new(TextModel::from_gguf(gguf.metadata())?);
            let options = RunnerOptions { n_ctx: 1024, ..RunnerOptions::default() };
            let engine = Engine::start(load_runner(&gguf, &options)?, config)?;
            return Ok(Loaded { engine, text, info });
        };
        let constrain_tools = !template.contains("FREE");
        let options = TextOptions { constrain_tools, ..TextOptions::default() };
        let text = byte_text_model(CONTROLS, END, template);
        let text = Arc::try_unwrap(text).unwrap_or_else(|_| panic!("its only owner"));
        let text = Arc::new(text.with_options(options));
        let prompt = text.chat_prompt(&ChatInput {
            messages: vec![Message::text(Role::User, "x")],
            ..Default::default()
        })?;
        let runner = Recital {
            spec: RunnerSpec {
                vocab_size: VOCABULARY,
                context_len: CONTEXT,
                num_blocks: 1024,
                max_rows: 512,
                kv_bytes_per_block: 1,
                weight_bytes: 1,
                hidden: 0,
                pooling: Pooling::Mean,
                device: "cpu".to_owned(),
                ..RunnerSpec::default()
            },
            prompt_len: prompt.len(),
            document: text.tokenizer.encode(answer, Special::Parse),
        };
        let engine = Engine::start(Box::new(runner), config)?;
        Ok(Loaded { engine, text, info })
    }
}
