//! `kolosal pull`, `list`, `show` and `rm`: models on this machine.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::args::{ListArgs, ModelArg, PullArgs, RmArgs};
use super::assembly::{self, Caller};
use super::compute::locate_here;
use super::failure::{Context, Failure, Outcome};
use super::output::human_bytes;
use super::{App, wait_for};
use crate::error::Error;
use crate::hub::{CatalogEntry, Hub, LocalModel, Reference};
use crate::model::gguf::{Access, Gguf};
use crate::model::{self, arch};

pub(super) fn pull(app: &App, args: &PullArgs) -> Outcome {
    let hub = hub(app)?;
    let references: Vec<Reference> =
        args.models.iter().map(|name| parse(name)).collect::<Outcome<_>>()?;
    wait_for(async {
        for reference in &references {
            let path = fetch(app, &hub, reference).await?;
            if app.out.json {
                app.out.json(&json!({"model": reference.to_string(), "path": path}))?;
            } else {
                app.out.line(path.display().to_string())?;
            }
        }
        Ok(())
    })
}

pub(super) fn list(app: &App, args: &ListArgs) -> Outcome {
    let hub = hub(app)?;
    if args.available {
        return available(app, &hub);
    }
    let models = hub.list();
    if app.out.json {
        return app.out.json_pretty(&models.iter().map(to_json).collect::<Value>());
    }
    let heading = ["NAME", "SIZE", "PATH"].map(str::to_owned).to_vec();
    let rows = models.iter().map(|model| {
        vec![model.name.clone(), human_bytes(model.bytes), model.path.display().to_string()]
    });
    app.out.table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

/// The catalogue.
fn available(app: &App, hub: &Hub) -> Outcome {
    let catalog = hub.catalog();
    if app.out.json {
        let entry = |entry: &CatalogEntry| json!({"name": entry.name, "about": entry.about});
        return app.out.json_pretty(&catalog.iter().map(entry).collect::<Value>());
    }
    let heading = ["NAME", "ABOUT"].map(str::to_owned).to_vec();
    let rows = catalog.iter().map(|entry| vec![entry.name.clone(), entry.about.clone()]);
    app.out.table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

fn to_json(model: &LocalModel) -> Value {
    json!({
        "name": model.name,
        "bytes": model.bytes,
        "path": model.path,
        "source": model.source,
        "references": model.references,
    })
}

pub(super) fn remove(app: &App, args: &RmArgs) -> Outcome {
    let hub = hub(app)?;
    for name in &args.models {
        hub.remove(name).map_err(Error::from)?;
        app.out.note(format!("removed {name}"));
    }
    Ok(())
}

pub(super) fn show(app: &App, args: &ModelArg) -> Outcome {
    let path = locate_here(app, &args.model)?;
    let gguf = model::open(&path, Access::OnDemand).context(path.display())?;
    let facts = facts(&gguf, &path);
    if app.out.json {
        let object = facts.into_iter().map(|(key, value)| (key.to_owned(), value));
        return app.out.json_pretty(&Value::Object(object.collect()));
    }
    let rows = facts.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        vec![key.to_owned(), text]
    });
    app.out.table(&rows.collect::<Vec<_>>())
}

fn facts(gguf: &Gguf, path: &Path) -> Vec<(&'static str, Value)> {
    let metadata = gguf.metadata();
    let architecture = metadata.architecture().unwrap_or_default();
    let text = |key: &str| json!(metadata.str(key).ok().flatten());
    let number = |key: &str| json!(metadata.u32(&format!("{architecture}.{key}")).ok().flatten());
    let parameters: u64 = gguf.tensors().iter().map(|tensor| tensor.num_elements() as u64).sum();
    let obstacle = super::inspect::obstacle(gguf);
    let supported = obstacle.is_none();
    let vocabulary = metadata.strings("tokenizer.ggml.tokens").ok().flatten();
    vec![
        ("name", text("general.name")),
        ("architecture", json!(architecture)),
        ("supported", json!(supported)),
        ("obstacle", json!(obstacle)),
        ("compared_with", json!(arch::proof(architecture).map(arch::Proof::in_words))),
        ("runner", json!(supported.then_some("kolosal"))),
        ("parameters", json!(parameters)),
        ("layers", number("block_count")),
        ("context", number("context_length")),
        ("hidden", number("embedding_length")),
        ("heads", number("attention.head_count")),
        ("kv_heads", number("attention.head_count_kv")),
        ("vocabulary", json!(vocabulary.map(<[_]>::len))),
        ("tokenizer", text("tokenizer.ggml.model")),
        ("pre_tokenizer", text("tokenizer.ggml.pre")),
        ("chat_template", json!(metadata.get("tokenizer.chat_template").is_some())),
        ("types", json!(types(gguf))),
        ("licence", text("general.license")),
        ("bytes", json!(gguf.file_bytes())),
        ("path", json!(path)),
    ]
}

/// Tensor types with their counts, such as `Q4_1 × 210`.
fn types(gguf: &Gguf) -> String {
    let mut counts = std::collections::BTreeMap::new();
    gguf.tensors().iter().for_each(|tensor| *counts.entry(tensor.ty.name()).or_insert(0) += 1);
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.iter().map(|(name, count)| format!("{name} × {count}")).collect::<Vec<_>>().join(", ")
}

/// The hub of this configuration.
pub(super) fn hub(app: &App) -> Outcome<Hub> {
    Ok(assembly::hub(&app.configure_quietly()?, Caller::Person)?)
}

/// Where a model is, if it is on this machine.
pub(super) fn resolve(app: &App, name: &str) -> Outcome<Option<PathBuf>> {
    Ok(hub(app)?.resolve(&parse(name)?))
}

/// Where a model is; fetches it first if it is not on this machine.
pub(super) fn locate(app: &App, name: &str) -> Outcome<PathBuf> {
    let path = PathBuf::from(name);
    if path.is_file() {
        return Ok(path);
    }
    let hub = hub(app)?;
    let reference = parse(name)?;
    match hub.resolve(&reference) {
        Some(path) => Ok(path),
        None => wait_for(fetch(app, &hub, &reference)),
    }
}

pub(super) fn parse(name: &str) -> Outcome<Reference> {
    Reference::parse(name).map_err(Failure::usage)
}

async fn fetch(app: &App, hub: &Hub, reference: &Reference) -> Outcome<PathBuf> {
    let progress = assembly::progress(app.out.quiet);
    Ok(hub.fetch(reference, progress.as_ref()).await.map_err(Error::from)?)
}
