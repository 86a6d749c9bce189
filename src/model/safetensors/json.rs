//! JSON files of a model directory, with typed access and errors that name the key.

use std::fs;
use std::path::Path;

use serde_json::Value as Node;

use crate::model::gguf::GgufError;

/// Largest JSON file that is read; tokenizers reach some tens of MB.
const MAX_BYTES: u64 = 1 << 28;

/// An object and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Json {
    what: String,
    node: Node,
}

impl Json {
    pub(super) fn read(path: &Path) -> Result<Self, GgufError> {
        let what = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = read_limited(path)?;
        let node: Node = serde_json::from_slice(&bytes)
            .map_err(|error| GgufError::malformed(&what, format!("not JSON: {error}")))?;
        if !node.is_object() {
            return Err(GgufError::malformed(&what, "not a JSON object"));
        }
        Ok(Self { what, node })
    }

    /// The file, if it is there.
    pub(super) fn read_if_there(path: &Path) -> Result<Option<Self>, GgufError> {
        if path.is_file() { Self::read(path).map(Some) } else { Ok(None) }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.node.get(key).filter(|node| !node.is_null())
    }

    pub(super) fn bad(&self, key: &str, problem: impl Into<String>) -> GgufError {
        GgufError::malformed(format!("{}: {key}", self.what), problem)
    }

    /// An object inside this one.
    pub(super) fn object(&self, key: &str) -> Result<Self, GgufError> {
        self.opt_object(key)?.ok_or_else(|| self.bad(key, "it is missing"))
    }

    pub(super) fn opt_object(&self, key: &str) -> Result<Option<Self>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(node) if node.is_object() => {
                Ok(Some(Self { what: format!("{}: {key}", self.what), node: node.clone() }))
            }
            Some(_) => Err(self.bad(key, "not an object")),
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        let object = self.node.as_object();
        object.into_iter().flatten().map(|(key, node)| (key.as_str(), node))
    }

    pub(super) fn opt_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.get(key)
            .map(|node| node.as_str().ok_or_else(|| self.bad(key, "not a string")))
            .transpose()
    }

    pub(super) fn opt_u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let number = |node: &Node| node.as_u64().and_then(|number| u32::try_from(number).ok());
        self.get(key)
            .map(|node| number(node).ok_or_else(|| self.bad(key, "not a number that fits u32")))
            .transpose()
    }

    pub(super) fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.opt_u32(key)?.ok_or_else(|| self.bad(key, "it is missing"))
    }

    pub(super) fn opt_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.get(key)
            .map(|node| {
                let number = node.as_f64().filter(|number| number.is_finite());
                number.map(|number| number as f32).ok_or_else(|| self.bad(key, "not a number"))
            })
            .transpose()
    }

    pub(super) fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.opt_f32(key)?.ok_or_else(|| self.bad(key, "it is missing"))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.get(key)
            .map(|node| node.as_bool().ok_or_else(|| self.bad(key, "not true or false")))
            .transpose()
    }

    /// An array; empty if absent.
    pub(super) fn array(&self, key: &str) -> Result<&[Node], GgufError> {
        match self.get(key) {
            None => Ok(&[]),
            Some(node) => match node.as_array() {
                Some(items) => Ok(items),
                None => Err(self.bad(key, "not an array")),
            },
        }
    }

    /// An array of objects; empty if absent.
    pub(super) fn objects(&self, key: &str) -> Result<Vec<Self>, GgufError> {
        let object = |(i, node): (usize, &Node)| match node.is_object() {
            true => Ok(Self { what: format!("{}: {key}[{i}]", self.what), node: node.clone() }),
            false => Err(self.bad(key, "not an array of objects")),
        };
        self.array(key)?.iter().enumerate().map(object).collect()
    }
}

/// The text of a file, if it is there.
pub(super) fn text_if_there(path: &Path) -> Result<Option<String>, GgufError> {
    if !path.is_file() {
        return Ok(None);
    }
    let what = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = String::from_utf8(read_limited(path)?);
    text.map(Some).map_err(|_| GgufError::malformed(what, "not UTF-8"))
}

fn read_limited(path: &Path) -> Result<Vec<u8>, GgufError> {
    let found = fs::metadata(path).map_err(|error| GgufError::io("open", path, error))?;
    if !found.is_file() {
        return Err(GgufError::NotAFile { path: path.into() });
    }
    if found.len() > MAX_BYTES {
        let what = format!("size of {}", path.display());
        return Err(GgufError::Limit { what, value: found.len(), limit: MAX_BYTES });
    }
    fs::read(path).map_err(|error| GgufError::io("read", path, error))
}
