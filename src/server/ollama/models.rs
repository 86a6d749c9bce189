//! `/api/tags`, `/api/ps`, `/api/show` and `/api/version`: the engines, as Ollama shows models.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use sha2::{Digest, Sha256};

use super::{OllamaTag, store, time};
use crate::{
    chat::{SamplingDefaults, TextDefaults},
    model::Purpose,
    registry::{EngineSpec, Status},
    server::{
        AppState,
        body::Json,
        desk::{Lists, Looks},
        reply::{Answer, Reply},
        schema::FreeObject,
    },
};

/// The version of Ollama whose interface this is; clients compare it with what they need.
const API_VERSION: &str = "0.13.5";

/// What kind of model it is. Texts are empty where its file is not here.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaDetails {
    pub parent_model: String,
    pub format: String,
    pub family: String,
    pub families: Vec<String>,
    /// Such as `135M`.
    pub parameter_size: String,
    pub quantization_level: String,
}

/// One model.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaModel {
    /// The `engine_id`.
    pub name: String,
    pub model: String,
    pub modified_at: String,
    /// Bytes of the files; 0 where they are not here.
    pub size: u64,
    /// The checksum of a file that was fetched; else a name that changes when the model does.
    pub digest: String,
    pub details: OllamaDetails,
}

/// All models.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaModels {
    pub models: Vec<OllamaModel>,
}

/// A model in memory.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaRunning {
    pub name: String,
    pub model: String,
    /// Bytes in memory.
    pub size: u64,
    /// The checksum of a file that was fetched; else a name that changes when the model does.
    pub digest: String,
    pub details: OllamaDetails,
    /// When it is unloaded if nobody uses it; far ahead for one in use or kept for ever.
    pub expires_at: String,
    /// Bytes of `size` on a GPU.
    pub size_vram: u64,
    /// Longest prompt and answer together, in tokens.
    pub context_length: usize,
}

/// The models in memory.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaRunningList {
    pub models: Vec<OllamaRunning>,
}

/// Which model to show. Of parameters that are not listed here, those that decide what an answer is
/// are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaShowRequest {
    /// The `engine_id`; `:latest` may follow.
    #[oai(nullable)]
    pub model: Option<String>,
    /// The older name of `model`.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Of no effect: long lists are never shown.
    #[oai(nullable)]
    pub verbose: Option<bool>,
}

/// What is known of a model. Looking neither loads nor fetches it.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaShown {
    /// What `/api/create` would make this model of.
    pub modelfile: String,
    /// Options that hold where a request does not say otherwise, one a line.
    pub parameters: String,
    /// The system message of conversations that begin without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The chat template, in Jinja's language.
    pub template: String,
    pub details: OllamaDetails,
    /// By the names that GGUF files have.
    pub model_info: FreeObject,
    pub capabilities: Vec<String>,
    pub modified_at: String,
}

/// The version of the interface.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaVersion {
    pub version: String,
}

/// The routes that look.
pub(crate) struct OllamaModelApi(pub Arc<AppState>);

#[OpenApi]
impl OllamaModelApi {
    /// List the models, as Ollama does
    #[oai(
        path = "/api/tags",
        method = "get",
        operation_id = "ollamaTags",
        tag = "OllamaTag::Ollama"
    )]
    async fn tags(&self) -> Answer<Json<OllamaModels>, Lists> {
        let mut models = Vec::new();
        for listed in self.0.registry.list() {
            // Removed meanwhile: not one of them any more.
            let Ok(status) = self.0.registry.describe(&listed.spec.id).await else { continue };
            models.push(OllamaModel {
                name: status.spec.id.clone(),
                model: status.spec.id.clone(),
                modified_at: self.started(),
                size: status.known.as_ref().map_or(0, |info| info.file_bytes),
                digest: digest(&self.0, &status),
                details: details(&status),
            });
        }
        Ok(Reply::new(Json(OllamaModels { models })))
    }

    /// List the models in memory, as Ollama does
    #[oai(path = "/api/ps", method = "get", operation_id = "ollamaPs", tag = "OllamaTag::Ollama")]
    async fn ps(&self) -> Answer<Json<OllamaRunningList>, Lists> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // A century: what is not going to be unloaded must say something.
        let far = Duration::from_hours(876_600);
        let running = self.0.registry.list().into_iter().filter(Status::is_ready);
        let model = |status: Status| OllamaRunning {
            name: status.spec.id.clone(),
            model: status.spec.id.clone(),
            size: status.memory_bytes,
            digest: digest(&self.0, &status),
            details: details(&status),
            expires_at: time::rfc3339(now + status.expires_in.unwrap_or(far)),
            size_vram: if is_on_gpu(&status) { status.memory_bytes } else { 0 },
            context_length: status.info.as_ref().map_or(0, |info| info.context_len),
        };
        Ok(Reply::new(Json(OllamaRunningList { models: running.map(model).collect() })))
    }

    /// Describe a model, as Ollama does
    #[oai(
        path = "/api/show",
        method = "post",
        operation_id = "ollamaShow",
        tag = "OllamaTag::Ollama"
    )]
    async fn show(&self, request: Json<OllamaShowRequest>) -> Answer<Json<OllamaShown>, Looks> {
        let model = store::name(request.0.model, request.0.name)?;
        let id = engine_id(&self.0, &model).await;
        let status = self.0.registry.describe(&id).await;
        let status = status.map_err(|error| error.with_param("model"))?;
        let mut info = Map::new();
        let mut capabilities = Vec::new();
        if status.known.is_none() {
            capabilities.push("completion".to_owned());
        }
        if let Some(known) = &status.known {
            info.insert("general.architecture".to_owned(), known.architecture.clone().into());
            info.insert("general.parameter_count".to_owned(), known.parameters.into());
            let key = |name: &str| format!("{}.{name}", known.architecture);
            let trained = known.trained_context_len.map_or(known.context_len, |len| len as usize);
            info.insert(key("context_length"), trained.into());
            if let Some(len) = known.embedding_len {
                info.insert(key("embedding_length"), len.into());
            }
            let is_written = known.purpose == Purpose::Generate;
            for (name, has_it) in [
                ("completion", is_written),
                // Where the template does not write them, they are described in the system message.
                ("tools", is_written && known.chat_template),
                ("thinking", is_written && known.reasons),
                ("embedding", known.purpose != Purpose::Rank),
            ] {
                capabilities.extend(has_it.then(|| name.to_owned()));
            }
        }
        let mut template = String::new();
        if status.is_ready()
            && let Ok(lease) = self.0.registry.get(&id).await
        {
            lease.text.template.source().clone_into(&mut template);
        }
        Ok(Reply::new(Json(OllamaShown {
            modelfile: modelfile(&status.spec),
            parameters: parameters(&status.spec.text),
            system: status.spec.text.system.clone(),
            template,
            details: details(&status),
            model_info: FreeObject(info),
            capabilities,
            modified_at: self.started(),
        })))
    }

    /// The version of Ollama whose interface this is
    #[oai(
        path = "/api/version",
        method = "get",
        operation_id = "ollamaVersion",
        tag = "OllamaTag::Ollama"
    )]
    async fn version(&self) -> Answer<Json<OllamaVersion>, Lists> {
        Ok(Reply::new(Json(OllamaVersion { version: API_VERSION.to_owned() })))
    }

    /// Engines are registered by a running server, so this is when they came.
    fn started(&self) -> String {
        time::rfc3339(Duration::from_secs(self.0.started_unix_s))
    }
}

/// The engine that a name of Ollama's means: `:latest` is what has no tag. A model that was pulled is
/// an engine from the first request on.
pub(super) async fn engine_id(state: &AppState, model: &str) -> String {
    let is_known = |name: &str| state.registry.status(name).is_ok();
    let plain = store::plain(model);
    if is_known(model) || (!is_known(plain) && store::find(state, plain).await.is_none()) {
        return model.to_owned();
    }
    plain.to_owned()
}

/// Options of Ollama's that an engine has, one a line.
fn parameters(text: &TextDefaults) -> String {
    let SamplingDefaults { temperature, top_p, top_k, min_p, repetition_penalty } = text.sampling;
    let floats = [
        ("temperature", temperature),
        ("top_p", top_p),
        ("min_p", min_p),
        ("repeat_penalty", repetition_penalty),
    ];
    let floats = floats.into_iter().filter_map(|(name, x)| Some(format!("{name} {}", x?)));
    let top_k = top_k.map(|top_k| format!("top_k {top_k}"));
    let stops = text.stop.iter().map(|stop| format!("stop {stop:?}"));
    floats.chain(top_k).chain(stops).collect::<Vec<_>>().join("\n")
}

/// The text of a Modelfile that makes this engine.
fn modelfile(spec: &EngineSpec) -> String {
    let mut lines = vec![format!("FROM {}", spec.reference)];
    let quoted = |name: &str, text: &Option<String>| {
        text.as_ref().map(|text| format!("{name} \"\"\"{text}\"\"\""))
    };
    lines.extend(quoted("TEMPLATE", &spec.text.template));
    lines.extend(quoted("SYSTEM", &spec.text.system));
    let parameters = parameters(&spec.text);
    lines.extend(parameters.lines().map(|line| format!("PARAMETER {line}")));
    lines.join("\n") + "\n"
}

/// A name that changes when the model does: the checksum of a file that was fetched; of others, whose
/// files are not read for it, one of where they are, how large they are and how texts are treated.
fn digest(state: &AppState, status: &Status) -> String {
    let fetched = state.options.hub.as_ref().and_then(|hub| hub.find(&status.spec.reference));
    let is_plain = status.spec.text == state.options.text;
    let sum = fetched.and_then(|model| model.files.into_iter().next()).map(|file| file.sha256);
    if let Some(sum) = sum.filter(|sum| is_plain && !sum.is_empty()) {
        return sum;
    }
    let known = status.known.as_ref();
    let size = known.map_or(0, |info| info.file_bytes);
    let text = format!("{} {size} {:?}", status.spec.reference, status.spec.text);
    let sum: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    sum.chunks_exact(16).fold(String::new(), |text, half| {
        let half = half.try_into().map(u128::from_be_bytes).unwrap_or_default();
        text + &format!("{half:032x}")
    })
}

/// A model is never split between processor and GPU.
fn is_on_gpu(status: &Status) -> bool {
    status.info.as_ref().is_some_and(|info| !matches!(info.device.as_str(), "" | "cpu"))
}

fn details(status: &Status) -> OllamaDetails {
    let known = status.known.as_ref();
    let family = known.map(|info| info.architecture.clone()).unwrap_or_default();
    OllamaDetails {
        parent_model: String::new(),
        format: "gguf".to_owned(),
        families: known.map(|info| info.architecture.clone()).into_iter().collect(),
        family,
        parameter_size: known.map(|info| parameter_size(info.parameters)).unwrap_or_default(),
        quantization_level: known.map(|info| info.quantization.clone()).unwrap_or_default(),
    }
}

/// `135M`, `7.2B`.
fn parameter_size(count: u64) -> String {
    let count = count as f64;
    if count >= 1e9 { format!("{:.1}B", count / 1e9) } else { format!("{:.0}M", count / 1e6) }
}
