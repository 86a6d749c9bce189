//! Damaged files: each is refused with an error or runs, and none ends in a panic.

use std::path::Path;

use kolosal_server::chat::conversation::{ChatInput, Message, Role};
use kolosal_server::chat::{ChatTemplate, Special, TextModel};
use kolosal_server::model::gguf::Gguf;
use kolosal_server::model::{
    BLOCK, Batch, DeviceChoice, RunnerOptions, Span, SpanState, load_runner,
};

use crate::tiny::Tiny;

/// Where metadata and tensor infos of the files below lie, and what follows them.
const HEAD: usize = 9000;

/// Rounds for each file; `KOLOSAL_TEST_FUZZ` asks for more.
fn rounds(least: usize) -> usize {
    let wanted = std::env::var("KOLOSAL_TEST_FUZZ").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(least)
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % limit.max(1)
    }

    /// A few bytes changed, doubled, taken out or cut off, mostly in the head.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let reach = if self.below(8) == 0 { bytes.len() } else { HEAD.min(bytes.len()) };
            let at = self.below(reach);
            match self.below(12) {
                0 => bytes.truncate(at),
                1 => {
                    let end = (at + self.below(9)).min(bytes.len());
                    bytes.drain(at..end);
                }
                2 => {
                    let end = (at + self.below(9)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                3..=5 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                _ => bytes[at] ^= 1 << self.below(8),
            }
            if bytes.is_empty() {
                return;
            }
        }
    }
}

/// Everything that a file's contents decide: description, weights, a step, vocabulary, template.
fn exercise(bytes: Vec<u8>) {
    let Ok(gguf) = Gguf::from_bytes(bytes) else { return };
    if let Ok(text) = TextModel::from_gguf(gguf.metadata()) {
        let tokens = text.tokenizer.encode("a <|im_end|>\n 12é", Special::Plain);
        text.tokenizer.decode(&tokens);
        let _refused_or_not = text.chat_prompt(&conversation());
    }
    let options = RunnerOptions {
        threads: 1,
        n_ctx: 64,
        n_parallel: 1,
        max_rows: 4,
        max_kv_bytes: 1 << 20,
        device: DeviceChoice::Cpu,
        ..RunnerOptions::default()
    };
    let Ok(mut runner) = load_runner(&gguf, &options) else { return };
    if runner.spec().context_len < 3 {
        return;
    }
    let batch = Batch {
        tokens: vec![0; 3],
        positions: vec![0, 1, 2],
        slots: (0..3).map(|at| (BLOCK + at) as u32).collect(),
        spans: vec![Span {
            rows: 0..3,
            kv_len: 3,
            blocks: vec![1],
            state: Some(SpanState { from: None, to: 0, saves: Vec::new() }),
        }],
        logit_rows: vec![2],
        ..Batch::default()
    };
    let _refused_or_not = runner.forward(&batch);
}

fn conversation() -> ChatInput {
    ChatInput {
        messages: vec![Message::text(Role::User, "Hi")],
        add_generation_prompt: true,
        ..ChatInput::default()
    }
}

#[test]
fn damaged_files_are_refused_or_run() {
    let fixture = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
        std::fs::read(folder.join(format!("{name}.gguf"))).unwrap()
    };
    let mut random = Random(1);
    let files =
        [Tiny::default().bytes(), fixture("deepseek2"), fixture("gemma3"), fixture("llama4")];
    for file in files {
        for _ in 0..rounds(150) {
            let mut bytes = file.clone();
            random.damage(&mut bytes);
            exercise(bytes);
        }
    }
}

#[test]
fn damaged_templates_are_refused_or_render() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut random = Random(2);
    for path in paths.iter().step_by(4) {
        let fixture: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let source = fixture["template"].as_str().unwrap().as_bytes();
        for _ in 0..rounds(12) {
            let mut bytes = source.to_vec();
            random.damage(&mut bytes);
            let source = String::from_utf8_lossy(&bytes).into_owned();
            let template = ChatTemplate::from_source(&source, Vec::new());
            let _refused_or_not = template.render_at(&conversation(), &|_| vec![], 0);
        }
    }
}
