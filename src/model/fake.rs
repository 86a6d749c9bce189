//! A deterministic runner without tensors, for tests and simulation.
