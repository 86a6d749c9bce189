//! Connections: accepting them, how many there may be, how long each may do nothing, and their end.
//!
//! The loop is our own, on hyper, so that a connection that ends takes its requests with it: whoever
//! leaves while a whole answer is computed frees the sequence within a step. It also bounds what a
//! client can hold without asking for anything: sockets, half-sent heads, bodies that stall, answers
//! that nobody reads.

mod accept;
mod body;
mod budget;
mod limits;
mod serve;
mod state;
mod table;
mod watched;

pub(super) use accept::serve;
pub(crate) use budget::{BodyBudget, Held};
pub use limits::{ConnectionLimits, raise_descriptor_limit};
pub(crate) use state::State;
