//! The decoder against candle-transformers' models of the same files.

use std::path::Path;

use kolosal_server::model::gguf::Gguf;
use kolosal_server::model::{DeviceChoice, RunnerOptions, load_runner, reference};

use crate::parity::{rms_distance, whole};

/// Fixtures that candle-transformers reads.
const FIXTURES: [&str; 3] = ["qwen2", "qwen3", "lfm2"];

fn open(name: &str) -> Gguf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/parity/{name}.gguf"));
    Gguf::open(&path).unwrap()
}

#[test]
fn both_compute_the_same() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 160).collect();
    for name in FIXTURES {
        let gguf = open(name);
        let Some(theirs) = reference::logits(&gguf, &tokens).unwrap() else {
            panic!("{name} has no second opinion");
        };
        let options = RunnerOptions { device: DeviceChoice::Cpu, ..RunnerOptions::default() };
        let ours = whole(&mut *load_runner(&gguf, &options).unwrap(), &tokens);
        let distance = rms_distance(&[theirs], &[ours.last().unwrap().clone()]);
        assert!(distance < 1e-2, "{name}: {distance}");
    }
}

#[test]
fn what_candle_has_no_model_for_has_no_second_opinion() {
    assert_eq!(reference::logits(&open("gemma4"), &[1]).unwrap(), None);
    // Its positions are scaled.
    assert_eq!(reference::logits(&open("llama-yarn"), &[1]).unwrap(), None);
    assert!(reference::logits(&open("llama"), &[]).is_err());
    assert!(reference::logits(&open("llama"), &[1; reference::MAX_TOKENS + 1]).is_err());
}
