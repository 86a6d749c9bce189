//! `kolosal inspect`: what is in a model file.

use serde_json::{Map, json};

use super::App;
use super::args::InspectArgs;
use super::compute;
use super::failure::{Context, Outcome};
use super::output::human_bytes;
use crate::model;
use crate::model::gguf::{Access, Array, Gguf, Value};

/// Elements of a list that are printed without `--full`.
const SHOWN_ELEMENTS: usize = 6;

pub(super) fn run(app: &App, args: &InspectArgs) -> Outcome {
    let path = compute::locate_here(app, &args.file)?;
    let gguf = model::open(&path, Access::Map).context(path.display())?;
    if app.out.json { print_json(app, &gguf, args.full) } else { print_text(app, &gguf, args.full) }
}

fn print_text(app: &App, gguf: &Gguf, full: bool) -> Outcome {
    app.out.line(format!(
        "GGUF version {}, {} in {} file(s), {} tensors, {} metadata keys",
        gguf.version(),
        human_bytes(gguf.file_bytes()),
        gguf.paths().len().max(1),
        gguf.tensors().len(),
        gguf.metadata().len()
    ))?;
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

fn print_json(app: &App, gguf: &Gguf, full: bool) -> Outcome {
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
    app.out.json_pretty(&json!({
        "version": gguf.version(),
        "file_bytes": gguf.file_bytes(),
        "files": gguf.paths(),
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
