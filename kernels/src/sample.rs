//! Sampling primitives.
