//! stand-in.
mod spec;
use crate::{
    chat::{TextModel, Tokenizer},
    engine::{Engine, EngineStats},
    error::{Error, Kind, Result},
};
pub use spec::{EngineSpec, LoadParams};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
pub struct Loaded {
    pub engine: Engine,
    pub text: Arc<TextModel>,
    pub info: ModelInfo,
}
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    pub architecture: String,
    pub name: Option<String>,
    pub parameters: u64,
    pub quantization: String,
    pub file_bytes: u64,
    pub context_len: usize,
    pub trained_context_len: Option<u32>,
    pub path: PathBuf,
    pub chat_template: bool,
    pub warnings: Vec<String>,
}
pub trait Loader: Send + Sync {
    fn estimate(&self, spec: &EngineSpec) -> Result<u64>;
    fn load(&self, spec: &EngineSpec) -> Result<Loaded>;
}
#[derive(Default)]
pub struct RegistryConfig {}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Unloaded,
    Loading,
    Ready,
    Draining,
    Failed(String),
}
impl State {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed(_) => "failed",
        }
    }
}
#[derive(Clone, Debug)]
pub struct Status {
    pub spec: EngineSpec,
    pub state: State,
    pub leases: usize,
    pub waiting: usize,
    pub memory_bytes: u64,
    pub loads: u64,
    pub load_time: Option<Duration>,
    pub idle_for: Option<Duration>,
    pub expires_in: Option<Duration>,
    pub info: Option<ModelInfo>,
    pub stats: Option<EngineStats>,
}
pub struct Lease(String, Loaded);
impl Lease {
    pub fn id(&self) -> &str {
        &self.0
    }
}
impl std::ops::Deref for Lease {
    type Target = Loaded;
    fn deref(&self) -> &Loaded {
        &self.1
    }
}
pub struct Registry {
    table: Mutex<BTreeMap<String, EngineSpec>>,
}
impl Registry {
    pub fn new(_: Arc<dyn Loader>, _: RegistryConfig) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default() })
    }
    pub async fn add(&self, spec: EngineSpec, _load_now: bool) -> Result<Status> {
        spec.validate()?;
        let id = spec.id.clone();
        self.table.lock().unwrap().insert(id.clone(), spec);
        self.status(&id)
    }
    pub async fn get(&self, id: &str) -> Result<Lease> {
        self.status(id)?;
        Ok(Lease(
            id.into(),
            Loaded {
                engine: Engine,
                text: Arc::new(TextModel { tokenizer: Arc::new(Tokenizer) }),
                info: ModelInfo::default(),
            },
        ))
    }
    pub fn list(&self) -> Vec<Status> {
        let ids: Vec<_> = self.table.lock().unwrap().keys().cloned().collect();
        ids.iter().filter_map(|id| self.status(id).ok()).collect()
    }
    pub fn status(&self, id: &str) -> Result<Status> {
        let spec = self.table.lock().unwrap().get(id).cloned();
        let spec = spec
            .ok_or_else(|| Error::new(Kind::NotFound, "no model").with_code("model_not_found"))?;
        Ok(Status {
            spec,
            state: State::Unloaded,
            leases: 0,
            waiting: 0,
            memory_bytes: 0,
            loads: 0,
            load_time: None,
            idle_for: None,
            expires_in: None,
            info: None,
            stats: None,
        })
    }
    pub async fn remove(&self, id: &str) -> Result<()> {
        self.status(id)?;
        self.table.lock().unwrap().remove(id);
        Ok(())
    }
    pub async fn unload(&self, id: &str) -> Result<()> {
        self.status(id).map(|_| ())
    }
    pub async fn shutdown(&self) {}
}
