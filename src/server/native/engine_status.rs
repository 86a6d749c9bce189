//! What the wire says about an engine.

use poem_openapi::Object;
use serde::Serialize;

use super::engine_request::EffectiveParameters;
use crate::model::Purpose;
use crate::registry::{State, Status};
use crate::server::desk::status_word;

/// One engine at one moment.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct EngineStatus {
    pub engine_id: String,
    pub model_path: String,
    /// `loaded`, `loading`, `unloaded`, `draining` or `failed`.
    pub status: String,
    /// Whether a request for it would be taken; an unloaded engine loads when asked.
    pub available: bool,
    /// The status as a sentence.
    pub message: String,
    /// When it was last used, in words.
    pub last_accessed: String,
    /// Seconds since its last use; null while in use or not loaded.
    #[oai(nullable)]
    pub last_accessed_s: Option<f64>,
    /// Seconds until it is unloaded for idleness; null: not as things are.
    #[oai(nullable)]
    pub expires_in_s: Option<f64>,
    pub pinned: bool,
    pub parameters: EffectiveParameters,
    pub jobs: EngineJobs,
    pub memory_usage: EngineMemory,
    pub performance: EnginePerformance,
    /// About the model's files, while it is loaded.
    #[oai(nullable)]
    pub model: Option<EngineModel>,
}

/// Who uses an engine.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct EngineJobs {
    /// Sequences in the batch.
    pub running: u64,
    /// Requests in the queue.
    pub waiting: u64,
    /// Requests that wait for the engine to load.
    pub waiting_for_load: u64,
}

/// What an engine takes; zero while it is not loaded.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct EngineMemory {
    /// Weights, KV cache and work space together, in bytes.
    pub total_bytes: u64,
    /// Weights in MB.
    pub model_size_mb: u64,
    /// The rest in MB: KV cache and work space.
    pub context_size_mb: u64,
}

/// What an engine has done since it was registered, in all its loads together.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct EnginePerformance {
    pub total_requests: u64,
    pub failed_requests: u64,
    pub prompt_tokens: u64,
    /// Prompt tokens that were found in the prefix cache.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_cache_usage: f64,
    /// How long the last load took, in seconds.
    #[oai(nullable)]
    pub load_time_s: Option<f64>,
    /// Successful loads since it was registered.
    pub loads: u64,
}

/// About a loaded model.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct EngineModel {
    pub architecture: String,
    pub quantization: String,
    /// Number of weights.
    pub num_parameters: u64,
    pub file_bytes: u64,
    /// Tokens that prompt and answer may have together.
    pub context_len: u64,
    /// `generate`: text, and embeddings; `embed`: embeddings; `rank`: scores of documents.
    pub purpose: String,
    /// Whose code computes: `kolosal`.
    pub runner: String,
    /// What a person should know.
    pub warnings: Vec<String>,
}

fn sentence(state: &State) -> String {
    match state {
        State::Ready => "engine is loaded and ready".to_owned(),
        State::Unloaded => "engine is not loaded; the next request loads it".to_owned(),
        State::Loading => "engine is loading; requests wait for it".to_owned(),
        State::Draining => "engine finishes its jobs and takes no new ones".to_owned(),
        State::Failed(reason) => format!("engine failed: {reason}; the next request tries again"),
    }
}

impl EngineStatus {
    pub(crate) fn new(status: &Status) -> Self {
        let stats = status.stats.as_ref();
        let idle_s = status.idle_for.map(|idle| idle.as_secs_f64());
        let is_loaded = status.info.is_some();
        Self {
            engine_id: status.spec.id.clone(),
            model_path: status.spec.reference.clone(),
            status: status_word(&status.state).to_owned(),
            available: status.state != State::Draining,
            message: sentence(&status.state),
            last_accessed: match idle_s {
                _ if !is_loaded => "not loaded".to_owned(),
                None => "now".to_owned(),
                Some(seconds) => format!("{seconds:.0} s ago"),
            },
            last_accessed_s: idle_s.filter(|_| is_loaded),
            expires_in_s: status.expires_in.map(|left| left.as_secs_f64()),
            pinned: status.spec.pinned,
            parameters: EffectiveParameters::from(&status.spec.params),
            jobs: EngineJobs {
                running: stats.map_or(0, |stats| stats.running as u64),
                waiting: stats.map_or(0, |stats| stats.waiting as u64),
                waiting_for_load: status.waiting as u64,
            },
            memory_usage: memory(status),
            performance: EnginePerformance {
                total_requests: status.totals.jobs_submitted,
                failed_requests: status.totals.jobs_failed,
                prompt_tokens: status.totals.prompt_tokens,
                cached_tokens: status.totals.prefix_hit_tokens,
                completion_tokens: status.totals.generated_tokens,
                kv_cache_usage: stats.map_or(0.0, |stats| stats.kv_usage),
                load_time_s: status.load_time.map(|time| time.as_secs_f64()),
                loads: status.loads,
            },
            model: status.info.as_ref().map(|info| EngineModel {
                architecture: info.architecture.clone(),
                quantization: info.quantization.clone(),
                num_parameters: info.parameters,
                file_bytes: info.file_bytes,
                context_len: info.context_len as u64,
                purpose: purpose(info.purpose).to_owned(),
                runner: "kolosal".to_owned(),
                warnings: info.warnings.clone(),
            }),
        }
    }
}

fn purpose(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Generate => "generate",
        Purpose::Embed => "embed",
        Purpose::Rank => "rank",
    }
}

fn memory(status: &Status) -> EngineMemory {
    let total = status.memory_bytes;
    let weights = status.info.as_ref().map_or(0, |info| info.file_bytes).min(total);
    EngineMemory {
        total_bytes: total,
        model_size_mb: weights >> 20,
        context_size_mb: (total - weights) >> 20,
    }
}
