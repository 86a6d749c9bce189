//! generation.
