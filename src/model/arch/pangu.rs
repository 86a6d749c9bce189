//! openPangu Embedded: llama with biases on all projections of attention, which are read from the file, and
//! GPT-NeoX's pairs in the rotary embedding.

use super::family::{Architecture, Proof};
use super::qwen::qwen2;

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "pangu-embedded",
    models: "openPangu Embedded",
    proof: Proof::Relative,
    describe: qwen2,
}];
