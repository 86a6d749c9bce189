//! `kolosal inspect`: what is in a model file, and whether it can be run.

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::App;
use super::args::InspectArgs;
use super::compute;
use super::failure::{Context, Outcome};
use super::output::human_bytes;
use crate::chat::Tokenizer;
use crate::model::gguf::{Access, Array, Gguf, Value};
use crate::model::{self, BLOCK, arch};
use crate::model::{RunnerOptions, load};

/// Elements of a list that are printed without `--full`.
const SHOWN_ELEMENTS: usize = 6;

pub(super) fn run(app: &App, args: &InspectArgs) -> Outcome {
    let path = compute::locate_here(app, &args.file)?;
    let gguf = model::open(&path, Access::OnDemand).context(path.display())?;
    let findings = Findings::of(&gguf, args.context as usize);
    if app.out.json {
        print_json(app, &gguf, &findings, args.full)
    } else {
        print_text(app, &gguf, &findings, args.full)
    }
}

/// What is known of a file beyond what stands in it.
struct Findings {
    /// Why the model cannot be run, if it cannot.
    obstacle: Option<String>,
    memory: Option<Memory>,
    /// What the family has been compared with.
    proof: Option<arch::Proof>,
    /// Type → tensors and bytes.
    types: BTreeMap<&'static str, (usize, usize)>,
}

/// What one sequence needs.
struct Memory {
    /// Tokens: what was asked for, or what the model was trained for if that is less.
    context: usize,
    kv_bytes: u64,
    /// Weights, KV and activations.
    bytes: u64,
}

impl Findings {
    fn of(gguf: &Gguf, context: usize) -> Self {
        let memory = Memory::of(gguf, context);
        let obstacle = obstacle(gguf);
        let mut types: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
        for tensor in gguf.tensors() {
            let (count, bytes) = types.entry(tensor.ty.name()).or_default();
            *count += 1;
            *bytes += tensor.num_bytes();
        }
        let proof = gguf.metadata().architecture().ok().and_then(arch::proof);
        Self { obstacle, memory: memory.ok(), proof, types }
    }
}

/// Why the model cannot be loaded, by the check that loading does before it reads weights.
pub(super) fn obstacle(gguf: &Gguf) -> Option<String> {
    let model = load::check(gguf, &RunnerOptions::default()).map_err(|error| error.to_string());
    let tokenizer =
        || Tokenizer::from_gguf(gguf.metadata()).map(drop).map_err(|error| error.to_string());
    model.and_then(|()| tokenizer()).err()
}

impl Memory {
    fn of(gguf: &Gguf, context: usize) -> Result<Self, String> {
        let options = RunnerOptions { n_ctx: context, n_parallel: 1, ..RunnerOptions::default() };
        let bytes = load::estimate_bytes(gguf, &options).map_err(|error| error.to_string())?;
        let (trained, block_bytes) = load::kv_figures(gguf).map_err(|error| error.to_string())?;
        let context = context.min(trained);
        let kv_bytes = (block_bytes * context.div_ceil(BLOCK)) as u64;
        Ok(Self { context, kv_bytes, bytes })
    }
}

fn print_text(app: &App, gguf: &Gguf, findings: &Findings, full: bool) -> Outcome {
    app.out.line(format!(
        "GGUF version {}, {} in {} file(s), {} tensors, {} metadata keys",
        gguf.version(),
        human_bytes(gguf.file_bytes()),
        gguf.paths().len().max(1),
        gguf.tensors().len(),
        gguf.metadata().len()
    ))?;
    app.out.line(match &findings.obstacle {
        None => "supported: yes".to_owned(),
        Some(obstacle) => format!("supported: no: {obstacle}"),
    })?;
    if let Some(proof) = findings.proof {
        app.out.line(format!("logits compared with: {}", proof.in_words()))?;
    }
    if let Some(memory) = &findings.memory {
        app.out.line(format!(
            "memory for one sequence of {} tokens: {}, of which {} for keys and values",
            memory.context,
            human_bytes(memory.bytes),
            human_bytes(memory.kv_bytes)
        ))?;
    }
    for (ty, (count, bytes)) in &findings.types {
        let bytes = human_bytes(*bytes as u64);
        app.out.line(format!("{ty}: {count} tensor(s), {bytes}"))?;
    }
    for (key, value) in gguf.metadata().iter() {
        app.out.line(format!("{key} = {}", text(value, full)))?;
    }
    let heading = ["TENSOR", "TYPE", "SHAPE", "BYTES"].map(str::to_owned).to_vec();
    let rows = gguf.tensors().iter().map(|tensor| {
        let ty = tensor.ty.name().to_owned();
        vec![tensor.name.clone(), ty, format!("{:?}", tensor.shape), tensor.num_bytes().to_string()]
    });
    app.out.table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

fn print_json(app: &App, gguf: &Gguf, findings: &Findings, full: bool) -> Outcome {
    let metadata: Map<String, serde_json::Value> =
        gguf.metadata().iter().map(|(key, value)| (key.to_owned(), to_json(value, full))).collect();
    let tensors: Vec<_> = gguf
        .tensors()
        .iter()
        .map(|tensor| {
            json!({
                "name": tensor.name,
                "type": tensor.ty.name(),
                "shape": tensor.shape,
                "bytes": tensor.num_bytes(),
            })
        })
        .collect();
    let types: Map<String, serde_json::Value> = findings
        .types
        .iter()
        .map(|(ty, (count, bytes))| ((*ty).to_owned(), json!({ "tensors": count, "bytes": bytes })))
        .collect();
    app.out.json_pretty(&json!({
        "version": gguf.version(),
        "file_bytes": gguf.file_bytes(),
        "files": gguf.paths(),
        "supported": findings.obstacle.is_none(),
        "obstacle": findings.obstacle,
        "compared_with": findings.proof.map(arch::Proof::in_words),
        "memory": findings.memory.as_ref().map(|memory| json!({
            "context": memory.context,
            "kv_bytes": memory.kv_bytes,
            "bytes": memory.bytes,
        })),
        "types": types,
        "metadata": metadata,
        "tensors": tensors,
    }))
}

fn text(value: &Value, full: bool) -> String {
    match value {
        Value::Array(array) if !full && array.len() > SHOWN_ELEMENTS => {
            let shown = elements(array, SHOWN_ELEMENTS);
            let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
            format!("[{}, …] ({} {})", shown.join(", "), array.len(), array.type_name())
        }
        _ => to_json(value, true).to_string(),
    }
}

fn to_json(value: &Value, full: bool) -> serde_json::Value {
    match value {
        Value::F32(x) => float_json(*x),
        Value::F64(x) => json!(x),
        Value::Bool(x) => json!(x),
        Value::String(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Array(array) if full || array.len() <= SHOWN_ELEMENTS => {
            elements(array, usize::MAX).into()
        }
        Value::Array(array) => json!({
            "length": array.len(),
            "type": array.type_name(),
            "first": elements(array, SHOWN_ELEMENTS),
        }),
        integer => integer.as_integer().map_or(serde_json::Value::Null, integer_json),
    }
}

fn integer_json(integer: i128) -> serde_json::Value {
    i64::try_from(integer).map_or_else(|_| json!(integer as u64), |small| json!(small))
}

/// The number as it was meant: `1e-5` rather than the nearest double of its nearest float.
fn float_json(x: f32) -> serde_json::Value {
    x.to_string().parse::<f64>().map_or(serde_json::Value::Null, |x| json!(x))
}

/// The first elements of an array.
fn elements(array: &Array, limit: usize) -> Vec<serde_json::Value> {
    match array {
        Array::F32(list) => list.iter().take(limit).map(|x| float_json(*x)).collect(),
        Array::F64(list) => list.iter().take(limit).map(|x| json!(x)).collect(),
        Array::Bool(list) => list.iter().take(limit).map(|x| json!(x)).collect(),
        Array::String(list) => {
            list.iter().take(limit).map(|x| json!(String::from_utf8_lossy(x))).collect()
        }
        Array::Array(list) => {
            list.iter().take(limit).map(|inner| elements(inner, limit).into()).collect()
        }
        integers => {
            let integers = integers.integers().unwrap_or_default();
            integers.into_iter().take(limit).map(integer_json).collect()
        }
    }
}
