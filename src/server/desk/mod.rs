//! The desk: what every dialect passes between the reader of its requests and the renderer of its answers.
//!
//! A dialect makes an [`Ask`] and a [`Render`]; [`Desk::serve`] does the rest, and whatever happens
//! ends in one [`Receipt`].

mod ask;
mod count;
mod head;
mod outcomes;
mod prompt_logprobs;
mod receipt;
mod seat;
mod serve;
mod tale;
mod timings;

pub(crate) use ask::{Ask, Wanted};
pub(crate) use count::count_tokens;
pub(crate) use head::{Head, random_id, status_word, unix_time_s};
pub(crate) use outcomes::{Counts, Embeds, Generates, Lists, Looks};
pub(crate) use prompt_logprobs::{PromptLogprobs, finite, prompt_logprobs};
pub(crate) use receipt::Ledger;
pub use receipt::{Identity, OnReceipt, Outcome, Receipt};
pub(crate) use seat::{Desk, Seat, lease_named_or_only};
pub(crate) use serve::{Begun, Now, Render, Served};
pub(crate) use timings::{PromptProgress, Timings, progress};
