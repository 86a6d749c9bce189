//! The wire request of `POST /engines`.

use std::time::Duration;

use poem_openapi::Object;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model::Quantize,
    registry::{EngineSpec, LoadParams},
    server::schema::{optional_object, wire_enum},
};

wire_enum! {
    /// A type that float weights are brought to.
    pub(crate) enum QuantizeType {
        Q4_0 = "q4_0",
        Q4_1 = "q4_1",
        Q5_0 = "q5_0",
        Q5_1 = "q5_1",
        Q8_0 = "q8_0",
        Q4K = "q4_k",
        Q5K = "q5_k",
        Q6K = "q6_k",
    }
}

impl From<QuantizeType> for Quantize {
    fn from(ty: QuantizeType) -> Self {
        match ty {
            QuantizeType::Q4_0 => Self::Q4_0,
            QuantizeType::Q4_1 => Self::Q4_1,
            QuantizeType::Q5_0 => Self::Q5_0,
            QuantizeType::Q5_1 => Self::Q5_1,
            QuantizeType::Q8_0 => Self::Q8_0,
            QuantizeType::Q4K => Self::Q4K,
            QuantizeType::Q5K => Self::Q5K,
            QuantizeType::Q6K => Self::Q6K,
        }
    }
}

/// How to load a model. What is absent has its default.
#[derive(Clone, Debug, Default, Deserialize, Object)]
#[serde(default, deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct LoadingParameters {
    /// Context of one sequence in tokens.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "1000000")))]
    pub n_ctx: Option<u32>,
    /// No effect: a context is never shifted; an answer that fills it ends with `length`. Not above
    /// `n_ctx`.
    #[oai(nullable)]
    pub n_keep: Option<u32>,
    /// Lock the weights in memory, as far as the system lets the server; false if absent.
    #[oai(nullable)]
    pub use_mlock: Option<bool>,
    /// Read weights from the file as they are needed instead of the whole file at first; it is never mapped.
    #[oai(nullable)]
    pub use_mmap: Option<bool>,
    /// Run sequences together; false: one after the other.
    #[oai(nullable)]
    pub cont_batching: Option<bool>,
    /// Run one token through the model before the engine is ready.
    #[oai(nullable)]
    pub warmup: Option<bool>,
    /// Sequences that run at once.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "256")))]
    pub n_parallel: Option<u32>,
    /// Layers on the GPU; more than the model has means all.
    #[oai(nullable, validator(maximum(value = "1000")))]
    pub n_gpu_layers: Option<u32>,
    /// Tokens in one step at most.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "8192")))]
    pub n_batch: Option<u32>,
    /// Tokens of a prompt in one step at most; not above `n_batch`.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "8192")))]
    pub n_ubatch: Option<u32>,
    /// Which GPU; -1: the first usable.
    #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "15")))]
    pub main_gpu_id: Option<i32>,
    /// Bring float weights to this type while loading; an error for a model that is quantised already.
    #[oai(nullable)]
    pub quantize: Option<QuantizeType>,
}

/// A request for an engine. Loading parameters may stand at the top level or in `loading_parameters`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CreateEngineRequest {
    /// The engine's name, which is the `model` of requests.
    #[oai(validator(min_length = 1, max_length = 256))]
    pub engine_id: String,
    /// The model file: a path, a URL, `hf:org/repo:quant` or a catalogue name.
    #[oai(validator(min_length = 1))]
    pub model_path: String,
    /// Load before answering; otherwise the first request loads.
    #[oai(nullable)]
    pub load_immediately: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub loading_parameters: Option<LoadingParameters>,
    /// Unload after so many seconds without use; 0: never; absent: the server's default.
    #[oai(nullable)]
    pub idle_timeout_s: Option<u64>,
    /// Never unload for idleness or for want of memory.
    #[oai(nullable)]
    pub pinned: Option<bool>,
    #[oai(nullable)]
    pub n_ctx: Option<u32>,
    #[oai(nullable)]
    pub n_keep: Option<u32>,
    #[oai(nullable)]
    pub use_mlock: Option<bool>,
    #[oai(nullable)]
    pub use_mmap: Option<bool>,
    #[oai(nullable)]
    pub cont_batching: Option<bool>,
    #[oai(nullable)]
    pub warmup: Option<bool>,
    #[oai(nullable)]
    pub n_parallel: Option<u32>,
    #[oai(nullable)]
    pub n_gpu_layers: Option<u32>,
    #[oai(nullable)]
    pub n_batch: Option<u32>,
    #[oai(nullable)]
    pub n_ubatch: Option<u32>,
    #[oai(nullable)]
    pub main_gpu_id: Option<i32>,
    #[oai(nullable)]
    pub quantize: Option<QuantizeType>,
}

/// The parameters an engine has, as they are.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct EffectiveParameters {
    pub n_ctx: u32,
    pub n_keep: u32,
    pub use_mlock: bool,
    pub use_mmap: bool,
    pub cont_batching: bool,
    pub warmup: bool,
    pub n_parallel: u32,
    pub n_gpu_layers: u32,
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub main_gpu_id: i32,
    /// Null: the weights are as in the file.
    #[oai(nullable)]
    pub quantize: Option<String>,
}

impl From<&LoadParams> for EffectiveParameters {
    fn from(params: &LoadParams) -> Self {
        Self {
            n_ctx: params.n_ctx,
            n_keep: params.n_keep,
            use_mlock: params.use_mlock,
            use_mmap: params.use_mmap,
            cont_batching: params.cont_batching,
            warmup: params.warmup,
            n_parallel: params.n_parallel,
            n_gpu_layers: params.n_gpu_layers,
            n_batch: params.n_batch,
            n_ubatch: params.n_ubatch,
            main_gpu_id: params.main_gpu_id,
            quantize: params.quantize.map(|target| target.name().to_owned()),
        }
    }
}

impl CreateEngineRequest {
    /// Whether to load before answering.
    pub(crate) fn loads_now(&self) -> bool {
        self.load_immediately.unwrap_or(true)
    }

    /// The spec to register, with `defaults` where the request is silent; the registry checks the
    /// ranges.
    pub(crate) fn into_spec(self, defaults: &LoadParams) -> Result<EngineSpec> {
        let params = self.params(defaults)?;
        let idle_timeout = self.idle_timeout_s.map(Duration::from_secs);
        Ok(EngineSpec {
            params,
            idle_timeout,
            pinned: self.pinned.unwrap_or(false),
            ..EngineSpec::new(self.engine_id, self.model_path)
        })
    }

    fn params(&self, defaults: &LoadParams) -> Result<LoadParams> {
        let nested = self.loading_parameters.clone().unwrap_or_default();
        let mut params = defaults.clone();
        macro_rules! take {
            ($($field:ident),*) => {$(
                if let Some(value) = pick(stringify!($field), self.$field, nested.$field)? {
                    params.$field = value;
                }
            )*};
        }
        take!(n_ctx, n_keep, use_mlock, use_mmap, cont_batching, warmup, n_parallel, n_gpu_layers);
        take!(n_batch, n_ubatch, main_gpu_id);
        if let Some(ty) = pick("quantize", self.quantize, nested.quantize)? {
            params.quantize = Some(ty.into());
        }
        // A small context or batch does not have to say so for what it bounds as well.
        if self.n_keep.is_none() && nested.n_keep.is_none() {
            params.n_keep = params.n_keep.min(params.n_ctx);
        }
        if self.n_ubatch.is_none() && nested.n_ubatch.is_none() {
            params.n_ubatch = params.n_ubatch.min(params.n_batch);
        }
        Ok(params)
    }
}

/// A parameter may stand in either place, and in both if it says the same.
fn pick<T: PartialEq>(name: &str, top: Option<T>, nested: Option<T>) -> Result<Option<T>> {
    match (top, nested) {
        (Some(top), Some(nested)) if top != nested => {
            let text = format!("{name} differs from loading_parameters.{name}");
            Err(Error::invalid(name, text))
        }
        (top, nested) => Ok(nested.or(top)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_from_both_places() {
        let defaults = LoadParams { n_parallel: 3, ..LoadParams::default() };
        let parse = |json: &str| serde_json::from_str::<CreateEngineRequest>(json).expect("parses");
        let both = r#"{"engine_id": "e", "model_path": "p", "n_ctx": 100,
            "loading_parameters": {"n_batch": 64, "n_ctx": 100}}"#;
        let spec = parse(both).into_spec(&defaults).expect("valid");
        assert_eq!((spec.params.n_ctx, spec.params.n_batch), (100, 64));
        assert_eq!((spec.params.n_keep, spec.params.n_ubatch), (100, 64));
        assert_eq!(spec.params.n_parallel, 3);
        let torn = r#"{"engine_id": "e", "model_path": "p", "n_ctx": 100,
            "loading_parameters": {"n_ctx": 200}}"#;
        let error = parse(torn).into_spec(&defaults).expect_err("contradiction");
        assert_eq!(error.param.as_deref(), Some("n_ctx"));
    }
}
