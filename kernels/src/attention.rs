//! Paged attention.
