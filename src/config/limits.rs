//! Bounds of what says how a model is loaded, wherever it is said: the configuration, flags, requests.

/// Tokens of a context; 0 is the model's own.
pub const N_CTX: (i64, i64) = (0, 1_000_000);
/// Sequences that run at once.
pub const N_PARALLEL: (i64, i64) = (1, 256);
/// Tokens in one step.
pub const N_BATCH: (i64, i64) = (1, 8192);
/// Layers on a GPU.
pub const N_GPU_LAYERS: (i64, i64) = (0, 1000);
/// Which GPU; -1 is the first usable.
pub const MAIN_GPU_ID: (i64, i64) = (-1, 15);
