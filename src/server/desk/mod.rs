//! The desk: what every dialect passes between the reader of its requests and the renderer of its answers.
//!
//! A request is a list of parameters, each of which is declared once, in [`params`]; a dialect says
//! which it has, under which names and with which bounds and defaults. What is a whole structure, such
//! as messages and tools, is read by serde. A [`Draft`] of it becomes an [`Ask`]; [`Desk::serve`] and
//! the dialect's [`Render`] do the rest, and whatever happens ends in one [`Receipt`].

mod ask;
mod bias;
mod count;
mod decisive;
mod draft;
pub(crate) mod form;
mod head;
mod outcomes;
pub(crate) mod params;
mod prompt_logprobs;
mod receipt;
mod render;
mod request;
mod samplers;
mod seat;
mod serve;
mod tale;
mod timings;
mod wire;

pub(crate) use ask::{Ask, Wanted};
pub(crate) use bias::LogitBias;
pub(crate) use count::count_tokens;
pub(crate) use decisive::decides;
pub(crate) use draft::Draft;
pub(crate) use form::{ResponseFormatKind, check_name};
pub(crate) use head::{Head, random_id, status_word, unix_time_s};
pub(crate) use outcomes::{Counts, Embeds, Generates, Lists, Looks};
pub(crate) use prompt_logprobs::{PromptLogprobs, finite, prompt_logprobs};
pub(crate) use receipt::Ledger;
pub use receipt::{Identity, OnReceipt, Outcome, Receipt};
pub(crate) use render::{Begun, Now, Render};
pub(crate) use request::{Body, Request, read};
pub(crate) use seat::{Desk, Seat, lease_named_or_only, named_or_only, unless_only};
pub(crate) use serve::Served;
pub(crate) use timings::{PromptProgress, Timings, progress};
pub(crate) use wire::{WireParam, wire};
