//! Models as directories: `config.json`, `tokenizer.json` and weights in safetensors files.
//!
//! Such a directory is read as if it were a GGUF file: metadata under GGUF's keys, tensors under
//! GGUF's names. What reads GGUF models then reads these. Weights are read from the files when they are needed but where
//! the two conventions lay out rows or norms differently.
//!
//! The files are hostile until checked, as GGUF files are: see [`super::gguf`] for what that means.

mod config;
mod description;
mod encoder;
mod file;
mod json;
mod names;
mod pieces;
mod side;
mod tokenizer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kolosal_kernels::quant::GgmlType;

use self::description::Description;
use self::file::{Entry, File};
use self::json::Json;
use self::names::Change;
use super::gguf::{Access, Composed, Gguf, GgufError, Metadata, Place};

/// Files of one model.
const MAX_FILES: usize = 1024;
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Whether the directory looks like a model in safetensors files.
#[must_use]
pub fn is_model_dir(dir: &Path) -> bool {
    dir.join(CONFIG).is_file() && (dir.join(WEIGHTS).is_file() || dir.join(INDEX).is_file())
}

/// Opens the model in `dir`.
///
/// # Errors
/// A file that is missing or malformed, an architecture or a feature that is not supported.
pub fn open(dir: &Path, access: Access) -> Result<Gguf, GgufError> {
    let config = Json::read(&dir.join(CONFIG))?;
    let mut description = config::describe(&config)?;
    let files = weight_files(dir)?
        .into_iter()
        .map(|path| File::open(path, access))
        .collect::<Result<Vec<_>, _>>()?;
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", description.architecture);
    metadata.set("general.name", name(dir, &config));
    for (key, value) in std::mem::take(&mut description.keys) {
        metadata.set(key, value);
    }
    let tensors = compose(&description, &files)?;
    let rows = tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let rows = rows.and_then(|tensor| tensor.shape.first()).copied();
    let rows = rows.ok_or_else(|| GgufError::tensor("token_embd.weight", "it is missing"))?;
    tokenizer::read(dir, rows, &mut metadata)?;
    side::read(dir, &config, &mut metadata)?;
    let files = files.into_iter().map(|file| (file.path, file.bytes)).collect();
    Gguf::compose(metadata, files, tensors)
}

/// The name that people gave the model, or that of its directory.
fn name(dir: &Path, config: &Json) -> String {
    let given = config.opt_str("_name_or_path").ok().flatten().filter(|name| !name.is_empty());
    given.map_or_else(
        || dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        |name| name.chars().take(200).collect(),
    )
}

/// One file, or those that the index names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, GgufError> {
    let whole = dir.join(WEIGHTS);
    let index = dir.join(INDEX);
    if whole.is_file() || !index.is_file() {
        return Ok(vec![whole]);
    }
    let index = Json::read(&index)?;
    let map = index.object("weight_map")?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map.entries() {
        let file = file.as_str().unwrap_or_default();
        let is_plain = file.ends_with(".safetensors") && !file.contains(['/', '\\', '\0']);
        if !is_plain {
            return Err(GgufError::tensor(tensor, format!("{file:?} is not the name of a file")));
        }
        names.insert(file.to_owned());
    }
    if names.is_empty() || names.len() > MAX_FILES {
        let (value, limit) = (names.len() as u64, MAX_FILES as u64);
        return Err(GgufError::Limit { what: "number of weight files".into(), value, limit });
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// The tensors of all files under GGUF's names.
fn compose(description: &Description, files: &[File]) -> Result<Vec<Composed>, GgufError> {
    let mut tensors = Vec::new();
    for (index, file) in files.iter().enumerate() {
        for entry in &file.tensors {
            let Some((name, change)) = description.rename(&entry.name) else { continue };
            let ty = entry.ty.ok_or_else(|| {
                let problem = format!("type {} is not F32, F16 or BF16", entry.dtype);
                GgufError::tensor(&entry.name, problem)
            })?;
            tensors.push(changed(entry, (index, file), name, ty, change)?);
        }
    }
    tensors.extend(description.extra.iter().map(|(name, values)| Composed {
        name: (*name).to_owned(),
        shape: vec![values.len()],
        ty: GgmlType::F32,
        place: Place::Memory(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    }));
    Ok(tensors)
}

fn changed(
    entry: &Entry,
    (index, file): (usize, &File),
    name: String,
    ty: GgmlType,
    change: Change,
) -> Result<Composed, GgufError> {
    let mut shape = entry.shape.clone();
    let bad = |problem: &str| GgufError::tensor(&entry.name, problem);
    let place = match change {
        Change::None => Place::File { file: index, start: entry.start, len: entry.len },
        Change::SkipRows(rows) => {
            let row_bytes = entry.len / shape[0];
            if shape.len() != 2 || rows >= shape[0] {
                return Err(bad("it has too few rows"));
            }
            shape[0] -= rows;
            let (start, len) = (entry.start + rows * row_bytes, shape[0] * row_bytes);
            Place::File { file: index, start, len }
        }
        Change::Interleave(heads) => {
            let rows = names::interleave(&file.data(entry)?, shape[0], heads);
            Place::Memory(rows.ok_or_else(|| bad("its rows are not halves of heads"))?)
        }
        Change::PlusOne => {
            let values = names::plus_one(ty, &file.data(entry)?);
            let values = values.ok_or_else(|| bad("it cannot be read"))?;
            return Ok(Composed { name, shape, ty: GgmlType::F32, place: Place::Memory(values) });
        }
    };
    Ok(Composed { name, shape, ty, place })
}
