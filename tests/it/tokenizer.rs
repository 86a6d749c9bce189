//! Tokenizers against published vocabularies, and what must hold for any.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kolosal_server::chat::{Special, Tokenizer};
use kolosal_server::model::gguf::Gguf;

const NAMES: [&str; 6] = ["bert-bge", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vocab").join(name)
}

fn zipped(name: &str) -> Vec<u8> {
    let archive = std::fs::read(data(&format!("{name}.zip"))).unwrap();
    let mut archive = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut bytes = Vec::new();
    archive.by_index(0).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The tokenizer of a test vocabulary, built once.
fn tokenizer(name: &str) -> Arc<Tokenizer> {
    static BUILT: [OnceLock<Arc<Tokenizer>>; NAMES.len()] =
        [const { OnceLock::new() }; NAMES.len()];
    let i = NAMES.iter().position(|&n| n == name).unwrap();
    let build = || {
        let gguf = Gguf::from_bytes(zipped(name)).unwrap();
        Arc::new(Tokenizer::from_gguf(gguf.metadata()).unwrap())
    };
    Arc::clone(BUILT[i].get_or_init(build))
}

#[test]
fn every_published_test_text_has_its_ids() {
    let inputs = std::fs::read_to_string(data("inputs.txt")).unwrap();
    const SEPARATOR: &str = "\n__ggml_vocab_test__\n";
    let inputs = inputs.strip_suffix(SEPARATOR).unwrap();
    let inputs: Vec<&str> = inputs.split(SEPARATOR).collect();
    for name in NAMES {
        let expected = std::fs::read_to_string(data(&format!("{name}.out"))).unwrap();
        let expected: Vec<Vec<u32>> = expected
            .lines()
            .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
            .collect();
        assert_eq!(inputs.len(), expected.len(), "{name}");
        let tokenizer = tokenizer(name);
        for (text, ids) in inputs.iter().zip(&expected) {
            assert_eq!(&tokenizer.encode(text, Special::Plain), ids, "{name}: {text:?}");
        }
    }
}
