//! Outcomes of operations that several dialects have, for the document.

use crate::server::reply::Outcomes;

/// Outcomes of an operation that generates text.
pub(crate) struct Generates;

impl Outcomes for Generates {
    const SUCCESS: (u16, &'static str) = (200, "The answer; with `stream`, server-sent events");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}

/// Outcomes of counting tokens.
pub(crate) struct Counts;

impl Outcomes for Counts {
    const SUCCESS: (u16, &'static str) = (200, "The number of tokens");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}

/// Outcomes of an operation that embeds texts.
pub(crate) struct Embeds;

impl Outcomes for Embeds {
    const SUCCESS: (u16, &'static str) = (200, "The vectors");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}

/// Outcomes of a list.
pub(crate) struct Lists;

impl Outcomes for Lists {
    const SUCCESS: (u16, &'static str) = (200, "What there is");
    const FAILURES: &'static [u16] = &[401, 500, 503];
}

/// Outcomes of a look at one thing.
pub(crate) struct Looks;

impl Outcomes for Looks {
    const SUCCESS: (u16, &'static str) = (200, "What was asked for");
    const FAILURES: &'static [u16] = &[400, 401, 404, 500, 503];
}
