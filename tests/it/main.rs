//! The one integration-test binary.

// Helpers are shared between the modules of one binary, and a test may fail by unwrapping.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod beats;
mod cli;
mod code_map;
mod defaults;
mod embedding;
mod engine;
mod fuzz;
mod generation;
mod gguf;
mod grammar;
mod http;
mod hub;
mod hybrid;
mod launch;
mod layouts;
mod lifecycle;
mod loads;
mod made;
mod parity;
mod program;
mod readme;
mod real;
mod registry;
mod run;
mod safetensors;
mod sdk;
mod simulation;
mod template;
mod terminal;
mod tidy;
mod tiny;
mod tokenizer;
mod tools;
mod transformers;
