//! XVERSE: llama by another name.

use super::family::{Architecture, Proof};
use super::llama::llama;

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "xverse", models: "XVERSE", proof: Proof::Relative, describe: llama }];
