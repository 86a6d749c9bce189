//! From the name of a model to a file and a runner inside this process.

use std::path::PathBuf;

use super::App;
use super::args::RunnerArgs;
use super::failure::{Context, Failure, Outcome};
use super::models;
use crate::chat::Tokenizer;
use crate::model::gguf::{Access, Gguf};
use crate::model::{self, Runner, RunnerOptions, load_runner, safetensors, threads};

/// KV that is needed: this many sequences of this many positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) positions: usize,
    pub(super) sequences: usize,
}

/// Weights in matrix products, in elements: how much work a token is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// For every row.
    pub(super) body: u64,
    /// For every row whose logits are computed.
    pub(super) head: u64,
    /// The part of the weights' bytes that a step of one sequence reads: not those of a table of
    /// embeddings by itself, nor of experts that are not visited.
    pub(super) part_read: f64,
}

/// A model ready to compute.
pub(super) struct Opened {
    /// File name without its ending.
    pub(super) name: String,
    pub(super) gguf: Gguf,
    pub(super) runner: Box<dyn Runner>,
    pub(super) threads: usize,
    pub(super) work: Work,
}

impl Opened {
    pub(super) fn open(app: &App, args: &RunnerArgs, room: Room) -> Outcome<Self> {
        let path = models::locate(app, &args.model)?;
        let gguf = model::open(&path, Access::OnDemand).context(path.display())?;
        let cpus = args.cpu_affinity.as_ref().map(|list| list.cpus.clone()).unwrap_or_default();
        let threads = threads::count(args.threads, &cpus);
        let options = RunnerOptions {
            threads,
            cpus,
            n_ctx: room.positions,
            n_parallel: room.sequences,
            max_rows: RunnerOptions::default().max_rows.max(room.sequences),
            max_kv_bytes: usize::MAX,
            device: args.device.clone(),
            quantize: args.quantize,
            lock_weights: false,
        };
        let runner = load_runner(&gguf, &options).context(path.display())?;
        if !runner.spec().writes() {
            let text = format!("{}: this command is for models that write text", path.display());
            return Err(Failure::failed(text));
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let work = work(&gguf);
        Ok(Self { name, gguf, runner, threads, work })
    }

    pub(super) fn tokenizer(&self) -> Outcome<Tokenizer> {
        Tokenizer::from_gguf(self.gguf.metadata()).context("tokenizer")
    }
}

/// A file on this machine: a path, or a model that has been fetched.
pub(super) fn locate_here(app: &App, name: &str) -> Outcome<PathBuf> {
    let path = PathBuf::from(name);
    if path.is_file() || safetensors::is_model_dir(&path) {
        return Ok(path);
    }
    models::resolve(app, name)?.ok_or_else(|| {
        Failure::failed(format!("{name} is not on this machine; kolosal pull fetches it"))
    })
}

fn work(gguf: &Gguf) -> Work {
    let metadata = gguf.metadata();
    let architecture = metadata.architecture().unwrap_or_default().to_owned();
    let count = |key: &str| {
        let key = format!("{architecture}.{key}");
        metadata.u32(&key).ok().flatten().map_or(1, u64::from)
    };
    let (used, experts) = (count("expert_used_count"), count("expert_count").max(1));
    let head = gguf.tensor("output.weight").or_else(|| gguf.tensor("token_embd.weight"));
    let mut work = Work { body: 0, head: 0, part_read: 0.0 };
    work.head = head.map_or(0, |tensor| tensor.num_elements() as u64);
    let (mut read, mut all) = (0, 0);
    for tensor in gguf.tensors() {
        let bytes = tensor.num_bytes() as u64;
        all += bytes;
        let is_body = tensor.name.starts_with("blk.");
        // Of stacked experts a row visits a few.
        let visited =
            |whole: u64| if tensor.shape.len() == 3 { whole * used / experts } else { whole };
        if is_body && tensor.shape.len() >= 2 {
            work.body += visited(tensor.num_elements() as u64);
        }
        if is_body || head.is_some_and(|head| head.name == tensor.name) {
            read += visited(bytes);
        }
    }
    work.part_read = read as f64 / all.max(1) as f64;
    work
}
