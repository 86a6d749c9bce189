//! The one integration-test binary.

mod cli;
mod engine;
mod generation;
//mod gguf;
mod http;
mod hub;
mod kernels;
mod parity;
mod registry;
mod sdk;
mod simulation;
mod template;
mod tidy;
mod tiny;
mod tokenizer;
