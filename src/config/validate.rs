//! Limits of values: each violation names key, value and limit.

use std::ops::RangeInclusive;

use kolosal_kernels::affinity;

use super::{Config, EngineDefaults, ModelConfig, SOURCE_KINDS, limits};

/// Longest name of an engine in bytes.
const ENGINE_ID_BYTES_MAX: usize = 256;

/// A key and what is wrong with its value.
type Violation = (String, String);

/// Checks every limit; the first violation is returned.
pub(super) fn validate(config: &Config) -> Result<(), Violation> {
    let engine = &config.engine;
    for (key, value, range) in [
        ("engine.n_ctx", u64::from(engine.n_ctx), range(limits::N_CTX)),
        ("engine.n_parallel", u64::from(engine.n_parallel), range(limits::N_PARALLEL)),
        ("engine.n_batch", u64::from(engine.n_batch), range(limits::N_BATCH)),
        ("engine.n_ubatch", u64::from(engine.n_ubatch), 1..=u64::from(most_rows(engine))),
        ("engine.threads", engine.threads as u64, 0..=1024),
        ("engine.max_waiting", engine.max_waiting as u64, 0..=1_000_000),
        ("engine.target_step_ms", u64::from(engine.target_step_ms), 0..=60_000),
        ("engine.max_draft_tokens", engine.max_draft_tokens as u64, 0..=64),
        ("server.worker_threads", config.server.worker_threads as u64, 0..=1024),
        ("server.drain_timeout_s", config.server.drain_timeout_s, 0..=3600),
        ("limits.max_body_bytes", config.limits.max_body_bytes as u64, 1024..=(1 << 32)),
        ("limits.body_timeout_s", config.limits.body_timeout_s, 1..=86_400),
        (
            "limits.max_body_bytes_in_flight",
            config.limits.max_body_bytes_in_flight as u64,
            config.limits.max_body_bytes as u64..=(1 << 40),
        ),
        ("connections.max", config.connections.max as u64, 0..=1_000_000),
        ("connections.max_per_address", config.connections.max_per_address as u64, 0..=1_000_000),
        ("connections.header_timeout_s", config.connections.header_timeout_s, 1..=86_400),
        ("connections.idle_timeout_s", config.connections.idle_timeout_s, 1..=86_400),
        ("connections.send_timeout_s", config.connections.send_timeout_s, 1..=86_400),
        ("connections.max_streams", u64::from(config.connections.max_streams), 1..=100_000),
        (
            "limits.max_grammar_cache_bytes",
            config.limits.max_grammar_cache_bytes as u64,
            0..=(1 << 40),
        ),
        ("responses.max_count", config.responses.max_count as u64, 0..=1_000_000),
        ("responses.max_bytes", config.responses.max_bytes as u64, 0..=(1 << 40)),
        ("responses.max_age_s", config.responses.max_age_s, 1..=31_536_000),
        ("registry.max_loads", config.registry.max_loads as u64, 1..=1024),
        ("registry.max_load_queue", config.registry.max_load_queue as u64, 0..=1_000_000),
        ("registry.max_engines", config.registry.max_engines as u64, 1..=100_000),
        ("limits.max_request_tokens", config.limits.max_request_tokens, 1024..=(1 << 40)),
        ("hub.max_downloads", config.hub.max_downloads as u64, 1..=64),
        ("hub.max_download_queue", config.hub.max_download_queue as u64, 0..=1_000_000),
        ("hub.max_model_bytes", config.hub.max_model_bytes, 1..=(1 << 50)),
        ("registry.max_load_waiters", config.registry.max_load_waiters as u64, 0..=1_000_000),
    ] {
        within(key, value, range)?;
    }
    let cpus = engine.cpu_affinity.as_deref().unwrap_or_default();
    affinity::parse(cpus)
        .and_then(|cpus| affinity::check(&cpus))
        .map_err(|error| ("engine.cpu_affinity".to_owned(), error.to_string()))?;
    check_reasoning("engine.reasoning", Some(&engine.reasoning))?;
    if config.server.host.is_empty() {
        return Err(("server.host".into(), "must not be empty".into()));
    }
    let auth = &config.auth;
    for (key, keys) in [("auth.api_keys", &auth.api_keys), ("auth.admin_keys", &auth.admin_keys)] {
        if let Some(index) = keys.iter().position(|key| key.expose().is_empty()) {
            return Err((format!("{key}[{index}]"), "must not be empty".into()));
        }
    }
    let is_source = |entry: &str| SOURCE_KINDS.contains(&entry) || entry.contains([':', '/']);
    if let Some(entry) = config.hub.allow_sources.iter().find(|entry| !is_source(entry)) {
        let kinds = SOURCE_KINDS.join(", ");
        let text = format!("{entry:?} is neither one of {kinds} nor the beginning of a reference");
        return Err(("hub.allow_sources".into(), text));
    }
    config.models.iter().enumerate().try_for_each(|(index, model)| check_model(index, model))?;
    unique_ids(config)
}

/// A small `n_batch` does not have to say so for `n_ubatch` as well: what that has by default is brought
/// down to it.
fn most_rows(engine: &EngineDefaults) -> u32 {
    engine.n_batch.max(EngineDefaults::default().n_ubatch)
}

fn check_model(index: usize, model: &ModelConfig) -> Result<(), Violation> {
    let key = |name: &str| format!("models[{index}].{name}");
    if model.reference.trim().is_empty() {
        return Err((key("reference"), "must name a model".into()));
    }
    if let Some(problem) = model.id.as_deref().and_then(|id| check_engine_id(id).err()) {
        return Err((key("id"), problem));
    }
    check_reasoning(&key("reasoning"), model.reasoning.as_ref())?;
    for (name, value, range) in [
        ("n_ctx", model.n_ctx, limits::N_CTX),
        ("n_parallel", model.n_parallel, limits::N_PARALLEL),
        ("n_batch", model.n_batch, limits::N_BATCH),
        ("n_ubatch", model.n_ubatch, limits::N_BATCH),
        ("n_gpu_layers", model.n_gpu_layers, limits::N_GPU_LAYERS),
    ] {
        if let Some(value) = value {
            within(&key(name), u64::from(value), self::range(range))?;
        }
    }
    Ok(())
}

fn check_reasoning(key: &str, value: Option<&String>) -> Result<(), Violation> {
    match value.map(String::as_str) {
        None | Some("auto" | "off") => Ok(()),
        Some(other) => Err((key.to_owned(), format!("{other:?} is neither auto nor off"))),
    }
}

/// The one rule for names of engines, wherever they come from: the configuration, the command line, a
/// request.
///
/// # Errors
/// What is wrong, with limit and value.
pub fn check_engine_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("is empty".to_owned());
    }
    if id.len() > ENGINE_ID_BYTES_MAX {
        return Err(format!("has {} bytes, limit {ENGINE_ID_BYTES_MAX}", id.len()));
    }
    if id.chars().any(char::is_control) || id.trim() != id {
        return Err("has control characters or space at an end".to_owned());
    }
    Ok(())
}

fn unique_ids(config: &Config) -> Result<(), Violation> {
    for (index, model) in config.models.iter().enumerate() {
        let taken =
            config.models[..index].iter().any(|other| other.id.is_some() && other.id == model.id);
        if taken {
            let id = model.id.as_deref().unwrap_or_default();
            return Err((format!("models[{index}].id"), format!("{id} is used twice")));
        }
    }
    Ok(())
}

/// Counts within bounds, which are not negative.
fn range((min, max): (i64, i64)) -> RangeInclusive<u64> {
    min.unsigned_abs()..=max.unsigned_abs()
}

fn within(key: &str, value: u64, range: RangeInclusive<u64>) -> Result<(), Violation> {
    if range.contains(&value) {
        return Ok(());
    }
    Err((key.to_owned(), format!("{value} is outside {}..={}", range.start(), range.end())))
}
