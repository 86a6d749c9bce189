//! OpenELM: Qwen 3's graph, with numbers of heads and widths that differ between layers.

use super::family::{Architecture, Proof};
use super::qwen::qwen3;

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "openelm", models: "OpenELM", proof: Proof::Relative, describe: qwen3 }];
