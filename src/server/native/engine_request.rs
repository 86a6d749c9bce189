//! The wire request of `POST /engines`.

use std::time::Duration;

use poem_openapi::Object;
use serde::{Deserialize, Serialize};

use crate::{
    chat::{TextDefaults, builtin_template},
    error::{Error, Result},
    param::{Given, Kind, apply},
    registry::{self, EngineSpec, LoadParams},
    server::{
        desk::{Request, WireParam},
        schema::{FreeObject, wire_enum},
    },
};

/// A request for an engine. Loading parameters may stand at the top level or in `loading_parameters`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "CreateEngineRequest")]
pub(crate) struct EngineParts {
    /// The engine's name, which is the `model` of requests.
    #[oai(validator(min_length = 1, max_length = 256))]
    engine_id: String,
    /// The model file: a path, a URL, `hf:org/repo:quant` or a catalogue name.
    #[oai(validator(min_length = 1))]
    model_path: String,
    /// Load before answering; otherwise the first request loads.
    #[oai(nullable)]
    load_immediately: Option<bool>,
    /// Unload after so many seconds without use; 0: never; absent: the server's default.
    #[oai(nullable)]
    idle_timeout_s: Option<u64>,
    /// Never unload for idleness or for want of memory.
    #[oai(nullable)]
    pinned: Option<bool>,
    /// A chat template in place of the model's own: its text in Jinja's language, or `chatml`, `plain`,
    /// `llama3`, `gemma` or `mistral`.
    #[oai(nullable, validator(max_length = 131_072))]
    chat_template: Option<String>,
    /// Variables of the chat template where a request does not set them.
    #[oai(nullable)]
    chat_template_kwargs: Option<FreeObject>,
    /// `off`: models that can do without do not think, unless a request asks for it.
    #[oai(nullable)]
    reasoning: Option<EngineReasoning>,
    /// The system message of conversations that begin without one.
    #[oai(nullable)]
    system: Option<String>,
}

wire_enum! {
    /// Whether a model thinks where a request does not say it.
    pub(crate) enum EngineReasoning {
        /// As the template has it.
        Auto = "auto",
        Off = "off",
    }
}

/// A request for an engine.
pub(crate) struct CreateEngineRequest {
    parts: EngineParts,
    /// What it says of loading.
    given: Given,
}

type Row = WireParam<LoadParams>;

/// The loading parameters as a request has them.
const LOADING: [Row; 12] = {
    let mut rows = [registry::LOADING[0].among(); 12];
    let mut at = 0;
    while at < rows.len() {
        rows[at] = registry::LOADING[at].among();
        at += 1;
    }
    rows
};

/// In an object of their own, and at the top.
const PARAMS: [Row; 13] = {
    let doc = "How to load the model. What is absent has its default.";
    let table = Kind::Table { title: "LoadingParameters", params: &LOADING };
    let mut rows = [Row::new("loading_parameters", doc, table); 13];
    let mut at = 0;
    while at < LOADING.len() {
        rows[at + 1] = LOADING[at];
        at += 1;
    }
    rows
};

impl Request for CreateEngineRequest {
    type Parts = EngineParts;
    type Target = LoadParams;
    const PARAMS: &'static [Row] = &PARAMS;

    fn new(parts: EngineParts, _: LoadParams, given: Given) -> Result<Self> {
        Ok(Self { parts, given })
    }
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

impl EngineParts {
    /// How the engine treats texts, with `defaults` where the request is silent.
    fn text(&self, defaults: &TextDefaults) -> Result<TextDefaults> {
        let is_template = |text: &str| {
            builtin_template(text).is_some() || text.contains("{{") || text.contains("{%")
        };
        if let Some(text) = self.chat_template.as_deref().filter(|text| !is_template(text)) {
            let shown: String = text.chars().take(64).collect();
            let text = format!(
                "chat_template: {shown:?} is neither a template nor the name of one; files are named in \
                 the configuration"
            );
            return Err(Error::invalid("chat_template", text));
        }
        let mut text = defaults.clone();
        text.template = self.chat_template.clone().or(text.template);
        text.system = self.system.clone().or(text.system);
        text.kwargs.extend(self.chat_template_kwargs.clone().unwrap_or_default().0);
        let is_off = self.reasoning == Some(EngineReasoning::Off);
        Ok(if is_off { text.without_reasoning() } else { text })
    }
}

impl CreateEngineRequest {
    /// Whether to load before answering.
    pub(crate) fn loads_now(&self) -> bool {
        self.parts.load_immediately.unwrap_or(true)
    }

    /// The spec to register, with `defaults` where the request is silent; the registry checks how
    /// parameters bound one another.
    ///
    /// # Errors
    /// A chat template that is neither one nor the name of one.
    pub(crate) fn into_spec(
        self,
        defaults: &LoadParams,
        text: &TextDefaults,
    ) -> Result<EngineSpec> {
        let Self { parts, given } = self;
        let text = parts.text(text)?;
        let mut params = defaults.clone();
        apply(&LOADING, &given, &mut params);
        // A small context or batch does not have to say so for what it bounds as well.
        if !given.has("n_keep") {
            params.bound_n_keep();
        }
        if !given.has("n_ubatch") {
            params.n_ubatch = params.n_ubatch.min(params.n_batch);
        }
        Ok(EngineSpec {
            params,
            text,
            idle_timeout: parts.idle_timeout_s.map(Duration::from_secs),
            pinned: parts.pinned.unwrap_or(false),
            ..EngineSpec::new(parts.engine_id, parts.model_path)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Quantize,
        server::{desk, ignored::Ignored},
    };

    #[test]
    fn parameters_are_taken_from_both_places() {
        let defaults = LoadParams { n_parallel: 3, ..LoadParams::default() };
        let parse =
            |json: &str| desk::read::<CreateEngineRequest>(json.as_bytes(), &Ignored::nothing());
        let both = r#"{"engine_id": "e", "model_path": "p", "n_ctx": 100,
            "loading_parameters": {"n_batch": 64, "n_ctx": 100, "quantize": "q4_k"}}"#;
        let spec =
            parse(both).expect("valid").into_spec(&defaults, &TextDefaults::default()).unwrap();
        assert_eq!((spec.params.n_ctx, spec.params.n_batch), (100, 64));
        assert_eq!((spec.params.n_keep, spec.params.n_ubatch), (100, 64));
        assert_eq!((spec.params.n_parallel, spec.params.quantize), (3, Some(Quantize::Q4K)));
        let torn = r#"{"engine_id": "e", "model_path": "p", "n_ctx": 100,
            "loading_parameters": {"n_ctx": 200}}"#;
        let error = parse(torn).err().expect("contradiction");
        assert_eq!(error.param.as_deref(), Some("n_ctx"));
    }
}
