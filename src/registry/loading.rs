//! The parameters of loading a model: names, meaning and bounds, once.

use super::LoadParams;
use crate::{
    config::limits::{MAIN_GPU_ID, N_BATCH, N_CTX, N_GPU_LAYERS, N_PARALLEL},
    model::Quantize,
    param::{Kind, Param},
};

type Row = Param<LoadParams>;

/// Every parameter of loading a model. What one does not say holds as the server is configured.
pub const LOADING: [Row; 12] = [
    Row::integer("n_ctx", "Context of one sequence in tokens; 0 is the model's own, as far as memory holds it.", N_CTX, |params, x| {
        params.n_ctx = x as u32;
    }),
    Row::integer(
        "n_keep",
        "No effect: a context is never shifted; an answer that fills it ends with `length`. Not above \
         `n_ctx`.",
        (0, N_CTX.1),
        |params, x| params.n_keep = x as u32,
    )
    .idle("a context is never shifted"),
    Row::switch(
        "use_mlock",
        "Lock the weights in memory, as far as the system lets the server; false if absent.",
        |params, is_on| params.use_mlock = is_on,
    ),
    Row::switch(
        "use_mmap",
        "Read weights from the file as they are needed instead of the whole file at first; it is never \
         mapped.",
        |params, is_on| params.use_mmap = is_on,
    ),
    Row::switch(
        "cont_batching",
        "Run sequences together; false: one after the other.",
        |params, is_on| params.cont_batching = is_on,
    ),
    Row::switch(
        "warmup",
        "Run one token through the model before the engine is ready.",
        |params, is_on| params.warmup = is_on,
    ),
    Row::integer("n_parallel", "Sequences that run at once.", N_PARALLEL, |params, x| {
        params.n_parallel = x as u32;
    }),
    Row::integer(
        "n_gpu_layers",
        "Layers on the GPU; more than the model has means all.",
        N_GPU_LAYERS,
        |params, x| params.n_gpu_layers = x as u32,
    ),
    Row::integer("n_batch", "Tokens in one step at most.", N_BATCH, |params, x| {
        params.n_batch = x as u32;
    }),
    Row::integer(
        "n_ubatch",
        "Tokens of a prompt in one step at most; not above `n_batch`.",
        N_BATCH,
        |params, x| params.n_ubatch = x as u32,
    ),
    Row::integer("main_gpu_id", "Which GPU; -1: the first usable.", MAIN_GPU_ID, |params, x| {
        params.main_gpu_id = x as i32;
    }),
    Row::new(
        "quantize",
        "Bring float weights to this type while loading; an error for a model that is quantised already.",
        Kind::Choice {
            words: &Quantize::NAMES,
            open: false,
            set: |params, word| params.quantize = word.parse().ok(),
        },
    ),
];
