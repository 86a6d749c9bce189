//! From a registered engine to a loaded one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::chat::preparation::Preparations;
use crate::chat::{SamplingDefaults, TextModel, TextOptions};
use crate::engine::{EmbedRequest, Engine, EngineConfig, Request, Sampling};
use crate::error::{Error, Kind, Result};
use crate::model::gguf::{Access, Gguf, GgufError, Metadata};
use crate::model::{self, Purpose, Runner};

use super::spec::{EngineSpec, LoadParams};

/// Bytes of a `generation_config.json` that are read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A model in memory with its engine running.
pub struct Loaded {
    pub engine: Engine,
    pub text: Arc<TextModel>,
    pub info: ModelInfo,
}

/// What is known of a loaded model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, if the file has one.
    pub name: Option<String>,
    /// Number of weights.
    pub parameters: u64,
    /// The type that most bytes of the weights are in, such as `Q4_K`.
    pub quantization: String,
    /// Size of all files together.
    pub file_bytes: u64,
    /// Positions that a sequence may have, as loaded.
    pub context_len: usize,
    /// Positions that the model was trained for, if the file says so.
    pub trained_context_len: Option<u32>,
    /// Where it runs: `cpu`, `cuda:0`, `metal:0`.
    pub device: String,
    /// The first file.
    pub path: PathBuf,
    pub purpose: Purpose,
    /// Whether the file brings a chat template of its own.
    pub chat_template: bool,
    /// Whether that knows of reasoning.
    pub reasons: bool,
    /// Values of a hidden state, if the file says so.
    pub embedding_len: Option<u32>,
    /// How the model's makers advise to choose tokens.
    pub sampling: SamplingDefaults,
    /// What a person should know: a parameter without effect, a shorter context than asked for.
    pub warnings: Vec<String>,
}

impl ModelInfo {
    /// With what whoever registered the engine says.
    fn known_better(mut self, spec: &EngineSpec) -> Self {
        self.sampling = spec.text.sampling.or(self.sampling);
        self.chat_template |= spec.text.template.is_some();
        self
    }
}

/// Loads engines. Finding the files is a task, so that a download holds no thread and ends when nobody
/// waits for it; the steps after it block and are called where they may.
pub trait Loader: Send + Sync {
    /// The first file of the model. Brings the files here if they are not; dropping the future stops
    /// that.
    ///
    /// # Errors
    /// The model cannot be found or fetched.
    fn locate<'a>(&'a self, spec: &'a EngineSpec) -> BoxFuture<'a, Result<PathBuf>> {
        Box::pin(async { Ok(PathBuf::from(&spec.reference)) })
    }

    /// What the file says of a model that is here; it is neither fetched nor loaded. Blocks.
    fn describe(&self, _spec: &EngineSpec) -> Option<ModelInfo> {
        None
    }

    /// Bytes that the engine will take: weights, KV pool and activations.
    ///
    /// # Errors
    /// The model cannot be read.
    fn estimate(&self, spec: &EngineSpec, path: &Path) -> Result<u64>;

    /// Loads the model and starts its engine, unless it is cancelled on the way.
    ///
    /// # Errors
    /// As [`Self::estimate`], or the model cannot be loaded.
    fn load(&self, spec: &EngineSpec, path: &Path, cancelled: &CancellationToken)
    -> Result<Loaded>;
}

/// Finds the file that a reference names, and fetches it if it is not here. Dropping the future stops
/// that.
pub type Locate = Box<dyn Fn(String) -> BoxFuture<'static, Result<PathBuf>> + Send + Sync>;

/// Finds the file that a reference names if it is here. Blocks.
pub type Find = Box<dyn Fn(&str) -> Option<PathBuf> + Send + Sync>;

/// Turns an open file into a runner; both methods block.
pub trait Backend: Send + Sync {
    /// Bytes that [`Self::runner`] will take: weights, KV pool and activations.
    ///
    /// # Errors
    /// As [`Self::runner`], as far as metadata tells.
    fn estimate(&self, gguf: &Gguf, params: &LoadParams) -> Result<u64>;

    /// Loads the weights.
    ///
    /// # Errors
    /// The model is of an unknown kind, broken, or too large.
    fn runner(&self, gguf: &Gguf, params: &LoadParams) -> Result<Box<dyn Runner>>;
}

/// Loads model files.
pub struct GgufLoader {
    locate: Locate,
    find: Option<Find>,
    backend: Box<dyn Backend>,
    engine: EngineConfig,
    text: TextOptions,
    preparations: Arc<Preparations>,
}

impl GgufLoader {
    /// `engine` is the template of each engine's configuration; name and sizes come from its spec.
    #[must_use]
    pub fn new(locate: Locate, backend: Box<dyn Backend>, engine: EngineConfig) -> Self {
        Self {
            locate,
            find: None,
            backend,
            engine,
            text: TextOptions::default(),
            preparations: Arc::default(),
        }
    }

    /// How a model is found that need not be fetched.
    #[must_use]
    pub fn with_find(mut self, find: Find) -> Self {
        self.find = Some(find);
        self
    }

    /// What is configured of every engine's text side.
    #[must_use]
    pub fn with_text(mut self, text: TextOptions) -> Self {
        self.text = text;
        self
    }
}

fn open(spec: &EngineSpec, path: &Path) -> Result<Gguf> {
    let access = if spec.params.use_mmap { Access::OnDemand } else { Access::AtOnce };
    model::open(path, access).map_err(|error| open_error(path, &error))
}

impl Loader for GgufLoader {
    fn locate<'a>(&'a self, spec: &'a EngineSpec) -> BoxFuture<'a, Result<PathBuf>> {
        (self.locate)(spec.reference.clone())
    }

    fn describe(&self, spec: &EngineSpec) -> Option<ModelInfo> {
        let path = self.find.as_ref()?(&spec.reference)?;
        let gguf = open(spec, &path).ok()?;
        let mut info = describe(&gguf, path).known_better(spec);
        info.purpose =
            model::arch::describe(&gguf).map(|model| model.purpose()).unwrap_or_default();
        let trained = info.trained_context_len.map_or(usize::MAX, |len| len as usize);
        info.context_len = trained.min(spec.params.n_ctx as usize);
        Some(info)
    }

    fn estimate(&self, spec: &EngineSpec, path: &Path) -> Result<u64> {
        let gguf = open(spec, path)?;
        self.backend.estimate(&gguf, &spec.params)
    }

    fn load(
        &self,
        spec: &EngineSpec,
        path: &Path,
        cancelled: &CancellationToken,
    ) -> Result<Loaded> {
        let token = cancelled.clone();
        let gguf = open(spec, path)?.while_wanted(move || !token.is_cancelled());
        // A bad vocabulary is found out before the weights are read.
        let text = TextModel::with_defaults(gguf.metadata(), spec.text.clone())?;
        let text = text.with_options(self.text).sharing(Arc::clone(&self.preparations));
        let text = Arc::new(text.advised(generation_config(path)));
        still_wanted(spec, cancelled)?;
        let runner = self.backend.runner(&gguf, &spec.params);
        // If it failed, it failed for that.
        still_wanted(spec, cancelled)?;
        let runner = runner?;
        let mut info = describe(&gguf, path.to_owned()).known_better(spec);
        info.context_len = runner.spec().context_len;
        runner.spec().device.clone_into(&mut info.device);
        info.purpose = runner.spec().purpose;
        info.warnings = warnings(&spec.params, &info);
        info.warnings.extend(runner.spec().warning.clone());
        let unheeded = SamplingDefaults::unheeded(gguf.metadata());
        info.warnings.extend(unheeded.into_iter().map(|key| format!("{key} is not heeded")));
        if info.purpose == Purpose::Generate {
            info.warnings.extend(text.warning().map(str::to_owned));
        }
        // The mapping goes before the engine runs: weights that were packed need it no more.
        drop(gguf);
        let config = EngineConfig {
            name: spec.id.clone(),
            max_running: spec.params.max_running(),
            max_batch_tokens: spec.params.max_rows(),
            ..self.engine.clone()
        };
        let engine = Engine::start(runner, config)?;
        if spec.params.warmup {
            warm_up(&engine)?;
        }
        Ok(Loaded { engine, text, info })
    }
}

fn still_wanted(spec: &EngineSpec, cancelled: &CancellationToken) -> Result<()> {
    if cancelled.is_cancelled() { Err(abandoned(&spec.id)) } else { Ok(()) }
}

/// The end of a load that nobody wants any more.
pub(super) fn abandoned(id: &str) -> Error {
    Error::unavailable(format!("the load of engine '{id}' was given up"), 1)
}

fn open_error(path: &Path, error: &GgufError) -> Error {
    let code = match error {
        GgufError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "model_file_not_found"
        }
        GgufError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "model_path_access_denied"
        }
        GgufError::NotAFile { .. } => "invalid_model_path_type",
        GgufError::NotGguf => "invalid_model_format",
        _ => "model_loading_failed",
    };
    let text = format!("cannot load {}: {error}", path.display());
    Error::new(Kind::ModelLoading, text).with_param("model_path").with_code(code)
}

fn describe(gguf: &Gguf, path: PathBuf) -> ModelInfo {
    let metadata = gguf.metadata();
    let architecture = metadata.architecture().unwrap_or_default().to_owned();
    let text = |key: &str| metadata.str(key).ok().flatten().map(str::to_owned);
    let template = text("tokenizer.chat_template");
    let has = |words: &[&str]| {
        template.as_ref().is_some_and(|text| words.iter().any(|word| text.contains(word)))
    };
    ModelInfo {
        sampling: SamplingDefaults::from_gguf(metadata).or(generation_config(&path)),
        device: String::new(),
        name: text("general.name"),
        parameters: gguf.tensors().iter().map(|tensor| tensor.num_elements() as u64).sum(),
        quantization: quantization(gguf),
        file_bytes: gguf.file_bytes(),
        context_len: 0,
        trained_context_len: trained_context(metadata, &architecture),
        path,
        purpose: Purpose::default(),
        chat_template: template.is_some(),
        reasons: has(&["<think>", "enable_thinking", "<|channel|>analysis", "reasoning_content"]),
        embedding_len: metadata.u32(&format!("{architecture}.embedding_length")).ok().flatten(),
        warnings: Vec::new(),
        architecture,
    }
}

/// What the file beside weights in safetensors files advises; nothing, if there is none that can be read.
fn generation_config(path: &Path) -> SamplingDefaults {
    let is_weights = path.extension().is_some_and(|extension| extension == "safetensors");
    let dir = match path.parent() {
        _ if path.is_dir() => path,
        Some(dir) if is_weights => dir,
        _ => return SamplingDefaults::default(),
    };
    let file = std::fs::File::open(dir.join("generation_config.json"));
    let config = file.ok().and_then(|file| {
        serde_json::from_reader(std::io::BufReader::new(file.take(MAX_CONFIG_BYTES))).ok()
    });
    config.as_ref().map(SamplingDefaults::from_generation_config).unwrap_or_default()
}

fn trained_context(metadata: &Metadata, architecture: &str) -> Option<u32> {
    metadata.u32(&format!("{architecture}.context_length")).ok().flatten()
}

/// The type that most bytes are in.
fn quantization(gguf: &Gguf) -> String {
    let mut bytes: BTreeMap<&'static str, usize> = BTreeMap::new();
    for tensor in gguf.tensors() {
        *bytes.entry(tensor.ty.name()).or_default() += tensor.num_bytes();
    }
    let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
    most.map(|(name, _)| name.to_owned()).unwrap_or_default()
}

fn warnings(params: &LoadParams, info: &ModelInfo) -> Vec<String> {
    let mut warnings = Vec::new();
    if info.context_len < params.n_ctx as usize {
        warnings.push(format!(
            "n_ctx {} was reduced to {}, the context that the model was trained for",
            params.n_ctx, info.context_len
        ));
    }
    let trained = info.trained_context_len.unwrap_or(0) as usize;
    if params.n_ctx == 0 && info.context_len < trained {
        warnings.push(format!(
            "the context is {} of the {trained} tokens that the model was trained for: n_ctx or \
             max_kv_bytes give more",
            info.context_len
        ));
    }
    if params.use_mlock && info.device != "cpu" {
        warnings.push(format!("use_mlock: weights on {} cannot be locked", info.device));
    }
    warnings
}

/// One token through the whole model: first-use costs are paid here and not by the first request.
fn warm_up(engine: &Engine) -> Result<()> {
    if !engine.spec().writes() {
        let request = EmbedRequest { prompt: vec![0], ..EmbedRequest::default() };
        return engine.embed(request)?.wait_blocking().map(|_| ());
    }
    let request = Request {
        prompt: vec![0],
        max_tokens: 1,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        cache_salt: u64::MAX,
        ..Request::default()
    };
    engine.submit(request)?.wait_blocking().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_in_safetensors_have_a_file_with_advice_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let advised = || generation_config(dir.path());
        assert_eq!(advised(), SamplingDefaults::default());
        let file = dir.path().join("generation_config.json");
        std::fs::write(&file, "{").unwrap();
        assert_eq!(advised(), SamplingDefaults::default());
        std::fs::write(&file, r#"{"do_sample": true, "temperature": 0.5, "top_k": 20}"#).unwrap();
        let (temperature, top_k) = (Some(0.5), Some(20));
        let expected = SamplingDefaults { temperature, top_k, ..SamplingDefaults::default() };
        assert_eq!(advised(), expected);
        assert_eq!(generation_config(&dir.path().join("model.safetensors")), expected);
        assert_eq!(generation_config(&dir.path().join("a.gguf")), SamplingDefaults::default());
    }
}
