//! The HTTP server, through poem's test client and over real sockets.

mod anthropic;
mod bad_input;
mod compatibility;
mod connections;
mod cut;
mod document;
mod doors;
mod embeddings;
mod front;
mod harness;
mod hostile;
mod inference;
mod local;
mod model;
mod native;
mod ollama;
mod openai;
mod rerank;
mod responses;
mod schemas;
mod script;
mod socket;
mod structured;
mod templates;
mod tokens;
mod tools;
