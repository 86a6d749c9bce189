//! Split models: `name-00001-of-00003.gguf` and the `split.*` keys.

use std::path::{Path, PathBuf};

use super::parse::limits;
use super::{GgufError, Metadata};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// The files of a split model.
#[derive(Debug)]
pub(super) struct ShardSet {
    pub(super) paths: Vec<PathBuf>,
    /// Tensors in all files together, if the first file says.
    pub(super) num_tensors: Option<u64>,
}

/// Whether the metadata is that of one file of several.
pub(super) fn is_split(metadata: &Metadata) -> Result<bool, GgufError> {
    Ok(metadata.u32(COUNT)?.is_some_and(|count| count > 1))
}

/// All files of the set that `path` belongs to; `None` for a model in one file.
pub(super) fn shards_of(path: &Path, metadata: &Metadata) -> Result<Option<ShardSet>, GgufError> {
    if !is_split(metadata)? {
        return Ok(None);
    }
    let count = metadata.u32(COUNT)?.unwrap_or(1);
    if count > limits::SHARDS {
        let (value, limit) = (count.into(), limits::SHARDS.into());
        return Err(GgufError::Limit { what: COUNT.into(), value, limit });
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some((prefix, _, total)) = parse_name(name) else {
        return Err(GgufError::Split(format!(
            "{name:?} is one of {count} files but is not named like \"name-00001-of-{count:05}.gguf\""
        )));
    };
    if total != count {
        let problem = format!("{name:?} says {total} files, its {COUNT} says {count}");
        return Err(GgufError::Split(problem));
    }
    let paths = (1..=count)
        .map(|number| path.with_file_name(format!("{prefix}-{number:05}-of-{count:05}.gguf")))
        .collect();
    Ok(Some(ShardSet { paths, num_tensors: metadata.u64(TENSORS)? }))
}

/// Checks that the file at `idx` of `count` says so itself.
pub(super) fn check_shard(metadata: &Metadata, idx: usize, count: usize) -> Result<(), GgufError> {
    let found_count = metadata.u64(COUNT)?.unwrap_or(0);
    if found_count != count as u64 {
        return Err(GgufError::Split(format!("{COUNT} is {found_count}, expected {count}")));
    }
    match metadata.u64(NO)? {
        Some(no) if no == idx as u64 => Ok(()),
        Some(no) => Err(GgufError::Split(format!(
            "{NO} is {no}, expected {idx}: a file is in the set twice or misnamed"
        ))),
        None => Err(GgufError::Missing { key: NO.into() }),
    }
}

/// Splits `prefix-00001-of-00003.gguf` into prefix, number (from 1) and count.
pub fn parse_name(name: &str) -> Option<(&str, u32, u32)> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    if prefix.is_empty() || !digits(number) || !digits(count) {
        return None;
    }
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    (1..=count).contains(&number).then_some((prefix, number, count))
}

#[cfg(test)]
mod tests {
    use super::parse_name;

    #[test]
    fn names_of_split_files() {
        for (name, expected) in [
            ("m-00001-of-00003.gguf", Some(("m", 1, 3))),
            ("a-b-00003-of-00003.gguf", Some(("a-b", 3, 3))),
            ("m-00000-of-00003.gguf", None),
            ("m-00004-of-00003.gguf", None),
            ("m-1-of-3.gguf", None),
            ("m-0000a-of-00003.gguf", None),
            ("m-+0001-of-00003.gguf", None),
            ("-00001-of-00003.gguf", None),
            ("m.gguf", None),
            ("m-00001-of-00003.bin", None),
            ("", None),
        ] {
            assert_eq!(parse_name(name), expected, "{name}");
        }
    }
}
