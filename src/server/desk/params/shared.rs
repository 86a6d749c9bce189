//! What requests for vectors and for scores share, each of which has a target of its own.

use crate::server::desk::WireParam;

/// vLLM's bound on what is read of a text; [`tokens`] says how many.
pub(crate) const fn truncating<T>(doc: &'static str, set: fn(&mut T, i64)) -> WireParam<T> {
    WireParam::integer("truncate_prompt_tokens", doc, (1, u32::MAX as i64), set)
        .unbounded()
        .remarking("vLLM's; -1: the context")
}

/// Tokens at most, as [`truncating`] has them; -1: all that the model takes.
pub(crate) fn tokens(x: i64) -> usize {
    usize::try_from(x).unwrap_or(usize::MAX)
}

/// Who asks, where not even the log has it.
pub(crate) const fn asker<T>() -> WireParam<T> {
    WireParam::text("user", "Who asks; opaque to this server.", usize::MAX, |_, _| {})
        .idle("who asks is opaque to this server")
}
