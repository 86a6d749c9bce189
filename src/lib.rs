//! Kolosal Server: an LLM inference server on candle.
//!
//! One idea carries the design: every forward pass is one flat, ragged batch of tokens (see
//! `docs/ARCHITECTURE.md`). Layers, from the outside in:
//!
//! - [`cli`]: the `kolosal` program.
//! - [`server`]: HTTP, wire JSON and dialects; nothing below knows them.
//! - [`chat`]: text to tokens and back; [`registry`]: which engines exist; [`hub`]: model files.
//! - [`engine`]: token ids in, events out; scheduler, KV blocks, sampler, one thread per model.
//! - [`model`]: GGUF files, architectures, the decoder, candle.
//! - `kolosal_kernels`: slices in, slices out.
//!
//! Imports point downwards only; `tests/it/tidy.rs` checks it.

#![deny(unsafe_code)]

pub mod chat;
pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod hub;
pub mod model;
pub mod param;
pub mod registry;
pub mod server;
pub mod shutdown;
pub mod trace;
