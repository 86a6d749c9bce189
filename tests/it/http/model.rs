//! A model whose answers can be read off its prompts: after a letter comes the next one, after `z` the
//! end.

use std::{path::Path, sync::Arc, time::Duration};

use kolosal_kernels::pool::Pool;
use kolosal_server::{
    chat::TextModel,
    engine::{Engine, EngineConfig},
    error::{Error, Kind, Result},
    model::{Batch, Logits, Pooling, Runner, RunnerError, RunnerSpec},
    registry::{EngineSpec, Loaded, Loader, ModelInfo},
};

use tokio_util::sync::CancellationToken;

use crate::tiny::byte_text_model;

/// One token for each byte, then the control tokens.
const VOCABULARY: usize = 258;
/// `<|im_end|>`, which ends an answer.
pub(super) const END: u32 = 256;
/// Values of a hidden state: one for each letter.
pub(super) const HIDDEN: usize = 26;
/// Tokens of a sequence.
pub(super) const CONTEXT: usize = 2048;

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
    {% if not (loop.last and continue_final_message) %}<|im_end|>\n{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Which token follows.
enum Next {
    One(u32),
    /// Any of four letters, all as likely.
    Dice,
    /// The step fails.
    Failure,
    /// A thread that computes it panics.
    Panic,
}

/// What follows a token:
/// - the next letter after a letter, the end after `z`; `a` after a line break, where answers begin;
/// - the bytes of an accented letter after `!`, of an emoji after `?`;
/// - a digit after itself, for ever and slowly;
/// - any of `a` to `d` after `~`; a failure after `#`; a panic after `^`.
fn next(token: u32) -> Next {
    let Ok(byte) = u8::try_from(token) else { return Next::One(u32::from(b'a')) };
    let following = match byte {
        b'a'..=b'y' => byte + 1,
        b'\n' | b' ' => b'a',
        b'!' => 0xc3,
        0xc3 => 0xa9,
        b'?' => 0xf0,
        0xf0 => 0x9f,
        0x9f => 0x98,
        0x98 => 0x80,
        b'0'..=b'9' => byte,
        b'~' => return Next::Dice,
        b'#' => return Next::Failure,
        b'^' => return Next::Panic,
        _ => return Next::One(END),
    };
    Next::One(u32::from(following))
}

struct Alphabet {
    spec: RunnerSpec,
    hidden: Vec<f32>,
}

impl Alphabet {
    fn new() -> Self {
        let spec = RunnerSpec {
            vocab_size: VOCABULARY,
            context_len: CONTEXT,
            num_blocks: 1024,
            max_rows: 512,
            kv_bytes_per_block: 1,
            weight_bytes: 1,
            hidden: HIDDEN,
            pooling: Pooling::Mean,
            device: "cpu".to_owned(),
            ..RunnerSpec::default()
        };
        Self { spec, hidden: Vec::new() }
    }
}

impl Runner for Alphabet {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError> {
        // The hidden state of a letter is 1 at its place and 0 elsewhere.
        self.hidden = vec![0.0; batch.hidden_rows.len() * HIDDEN];
        for (row, hidden) in batch.hidden_rows.iter().zip(self.hidden.chunks_exact_mut(HIDDEN)) {
            let letter = batch.tokens[*row as usize].checked_sub(u32::from(b'a'));
            if let Some(value) = letter.and_then(|letter| hidden.get_mut(letter as usize)) {
                *value = 1.0;
            }
        }
        let mut data = vec![0.0; batch.logit_rows.len() * VOCABULARY];
        for (row, logits) in batch.logit_rows.iter().zip(data.chunks_exact_mut(VOCABULARY)) {
            let token = batch.tokens[*row as usize];
            if (u32::from(b'0')..=u32::from(b'9')).contains(&token) {
                std::thread::sleep(Duration::from_millis(1));
            }
            match next(token) {
                Next::One(next) => logits[next as usize] = 20.0,
                Next::Dice => logits[usize::from(b'a')..=usize::from(b'd')].fill(20.0),
                Next::Panic => Pool::new(2).for_each(2, |_, item| {
                    assert_ne!(item, 1, "a kernel broke");
                }),
                Next::Failure => return Err(RunnerError("the device is on fire".to_owned())),
            }
        }
        Ok(Logits { data: data.into(), vocab_size: VOCABULARY })
    }

    fn hidden(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.hidden)
    }
}

fn text_model() -> Arc<TextModel> {
    byte_text_model(&["<|im_end|>", "<|im_start|>"], END, TEMPLATE)
}

/// Loads the alphabet for the path `alphabet`, and nothing else.
pub(super) struct AlphabetLoader;

impl Loader for AlphabetLoader {
    fn estimate(&self, _: &EngineSpec, _: &Path) -> Result<u64> {
        Ok(1)
    }

    fn load(&self, spec: &EngineSpec, _: &Path, _: &CancellationToken) -> Result<Loaded> {
        let fails = |kind, code| {
            let text = format!("cannot load {}", spec.reference);
            Err(Error::new(kind, text).with_code(code))
        };
        match spec.reference.as_str() {
            "alphabet" => {}
            "missing.gguf" => return fails(Kind::ModelLoading, "model_file_not_found"),
            "far away" => return fails(Kind::ModelDownload, "model_download_failed"),
            "panic" => panic!("on purpose"),
            _ => return Err(Error::new(Kind::ModelLoading, "this is no alphabet")),
        }
        let config =
            EngineConfig { name: spec.id.clone(), drafts_always: true, ..EngineConfig::default() };
        let engine = Engine::start(Box::new(Alphabet::new()), config)?;
        let info = ModelInfo {
            architecture: "alphabet".to_owned(),
            quantization: "F32".to_owned(),
            parameters: 26,
            device: "cpu".to_owned(),
            context_len: CONTEXT,
            ..ModelInfo::default()
        };
        Ok(Loaded { engine, text: text_model(), info })
    }
}
