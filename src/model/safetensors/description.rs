//! What a configuration says about a model, in the terms of GGUF: metadata, and new names for tensors.

use super::names::{self, Change};
use crate::model::gguf::Value;

/// What a configuration says about a model.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) architecture: &'static str,
    /// Metadata, with whole keys.
    pub(super) keys: Vec<(String, Value)>,
    /// Tensors that files of this kind do not have and GGUF does.
    pub(super) extra: Vec<(&'static str, Vec<f32>)>,
    pub(super) naming: Naming,
}

/// How tensors are renamed.
#[derive(Debug)]
pub(super) struct Naming {
    /// Left out where they stand in front.
    pub(super) prefixes: &'static [&'static str],
    /// Before the number of a layer.
    pub(super) layer: &'static str,
    pub(super) parts: Vec<(&'static str, &'static str)>,
    pub(super) top: Vec<(&'static str, &'static str)>,
    /// Beginnings of names that are not needed.
    pub(super) skipped: Vec<&'static str>,
    /// Of a renamed tensor, by the end of its name before `.weight` or `.bias`.
    pub(super) changes: Vec<(&'static str, Change)>,
}

impl Description {
    /// With these keys in place of what it has.
    pub(super) fn with(mut self, keys: Keys) -> Self {
        self.keys = keys.keys;
        self
    }

    /// The tensor's name and change; `None` for one that is not needed. A name that is not known
    /// stays, to be reported by whoever reads the weights.
    pub(super) fn rename(&self, name: &str) -> Option<(String, Change)> {
        let naming = &self.naming;
        let bare = naming.prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
        let bare = bare.unwrap_or(name);
        if naming.skipped.iter().any(|skipped| bare.starts_with(skipped))
            || bare.ends_with("rotary_emb.inv_freq")
        {
            return None;
        }
        // The names of norms in old checkpoints.
        let bare = match (bare.strip_suffix(".gamma"), bare.strip_suffix(".beta")) {
            (Some(stem), _) => format!("{stem}.weight"),
            (_, Some(stem)) => format!("{stem}.bias"),
            _ => bare.to_owned(),
        };
        let find = |table: &[(&'static str, &'static str)], part: &str| {
            table.iter().find(|(theirs, _)| *theirs == part).map(|(_, ours)| *ours)
        };
        let renamed = match names::layer_part(&bare, naming.layer) {
            Some((index, part, kind)) => {
                find(&naming.parts, part).map(|ours| (ours, format!("blk.{index}.{ours}.{kind}")))
            }
            None => bare.rsplit_once('.').and_then(|(part, kind)| {
                find(&naming.top, part).map(|ours| (ours, format!("{ours}.{kind}")))
            }),
        };
        let Some((ours, name)) = renamed else { return Some((name.to_owned(), Change::None)) };
        let change = naming.changes.iter().find(|(end, _)| ours.ends_with(end));
        Some((name, change.map_or(Change::None, |(_, change)| *change)))
    }
}

/// Metadata under an architecture's prefix, in the making.
pub(super) struct Keys {
    architecture: &'static str,
    pub(super) keys: Vec<(String, Value)>,
}

impl Keys {
    pub(super) fn new(architecture: &'static str) -> Self {
        Self { architecture, keys: Vec::new() }
    }

    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.push((format!("{}.{key}", self.architecture), value.into()));
    }
}
