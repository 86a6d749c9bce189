//! InternLM 2: llama by another name; InternLM 3 bears llama's.

use super::family::{Architecture, Proof};
use super::llama::llama;

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "internlm2",
    models: "InternLM 2",
    proof: Proof::Relative,
    describe: llama,
}];
