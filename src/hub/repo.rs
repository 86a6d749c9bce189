//! Repositories of the Hugging Face hub: which of their files make up the model that was asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::checksum::is_sha256;
use super::reference::check_path;
use super::{Expect, HubError, RepoReference, Select, directory, is_gguf};
use crate::model::gguf::parse_split_name;

/// Quantisations in the order of preference where none was named: small and good ones first.
const PREFERRED: [&str; 19] = [
    "Q4_K_M", "Q4_0", "Q4_K_S", "Q8_0", "Q5_K_M", "Q5_K_S", "Q5_0", "Q6_K", "Q4_1", "Q5_1",
    "IQ4_XS", "IQ4_NL", "MXFP4", "Q3_K_M", "Q3_K_L", "Q2_K", "BF16", "F16", "F32",
];

/// Largest answer of the hub to a question about a repository.
const LISTING_BYTES_MAX: usize = 16 << 20;

/// A repository's files at one commit.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    #[serde(default)]
    sha: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// One file to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Inside the repository.
    pub(super) path: String,
    pub(super) expect: Expect,
}

/// The hub's view of a repository.
pub(super) fn hub_repo(reference: &RepoReference) -> Repo {
    let revision = reference.revision.clone().unwrap_or_else(|| "main".into());
    Repo::with_revision(reference.repo.clone(), RepoType::Model, revision)
}

/// Where the hub describes the repository; `endpoint` without a slash at its end.
pub(super) fn listing_url(endpoint: &str, reference: &RepoReference) -> String {
    let repo = hub_repo(reference);
    let revision = escaped(repo.revision());
    format!("{endpoint}/api/models/{}/revision/{revision}?blobs=true", reference.repo)
}

/// Where the hub serves one file.
pub(super) fn file_url(
    endpoint: &str,
    repo: &str,
    revision: &str,
    path: &str,
) -> Result<reqwest::Url, HubError> {
    let text = format!("{endpoint}/{repo}/resolve/{}/", escaped(revision));
    let invalid = || HubError::invalid(&text, "not a URL");
    let mut url = reqwest::Url::parse(&text).map_err(|_| invalid())?;
    url.path_segments_mut().map_err(|()| invalid())?.pop_if_empty().extend(path.split('/'));
    Ok(url)
}

/// A revision as one segment of a path.
fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F")
}

impl Listing {
    pub(super) async fn read(
        mut response: reqwest::Response,
        what: &str,
    ) -> Result<Self, HubError> {
        let failed = |problem: String| HubError::failed(format!("listing {what}"), problem);
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|e| failed(super::http::describe(&e)))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > LISTING_BYTES_MAX {
                return Err(failed(format!("more than {LISTING_BYTES_MAX} bytes")));
            }
        }
        serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))
    }

    /// The commit, if the hub gave one of the usual form.
    pub(super) fn commit(&self) -> Option<&str> {
        let is_commit = |s: &&str| s.len() == 40 && s.bytes().all(|b| b.is_ascii_hexdigit());
        self.sha.as_deref().filter(is_commit)
    }

    /// The files of the model that is meant, the first of a split model first.
    pub(super) fn select(&self, reference: &RepoReference) -> Result<Vec<RemoteFile>, HubError> {
        let names: Vec<&str> = self.siblings.iter().map(|s| s.rfilename.as_str()).collect();
        let chosen = choose(reference, &names)?;
        let files = chosen.into_iter().map(|name| {
            let sibling = self.siblings.iter().find(|s| s.rfilename == name);
            let lfs = sibling.and_then(|s| s.lfs.as_ref());
            let sha256 = lfs.and_then(|l| l.sha256.clone()).filter(|s| is_sha256(s));
            let bytes = lfs.and_then(|l| l.size).or(sibling.and_then(|s| s.size));
            RemoteFile { path: name, expect: Expect { sha256, bytes } }
        });
        Ok(files.collect())
    }
}

/// Looks for the model in the cache that the hub's own tools keep.
pub(super) fn find_cached(cache: &Path, reference: &RepoReference) -> Option<PathBuf> {
    let repo = hub_repo(reference);
    let folder = cache.join(repo.folder_name());
    let cached = Cache::new(cache.into()).repo(repo);
    let commit = match &reference.revision {
        Some(commit) if folder.join("snapshots").join(commit).is_dir() => commit.clone(),
        revision => {
            let name = revision.as_deref().unwrap_or("main");
            std::fs::read_to_string(folder.join("refs").join(name)).ok()?.trim().to_owned()
        }
    };
    if commit.is_empty() || !commit.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let snapshot = cached.pointer_path(&commit);
    let mut names = Vec::new();
    collect_names(&snapshot, "", 4, &mut names);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = choose(reference, &names).ok()?.into_iter().next()?;
    Some(snapshot.join(first))
}

/// Names of the complete files below `folder`; the cache links to them, and never to partial ones.
fn collect_names(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str() else { continue };
        match std::fs::metadata(entry.path()) {
            Ok(found) if found.is_file() => names.push(format!("{prefix}{name}")),
            Ok(found) if found.is_dir() && depth > 0 => {
                collect_names(&entry.path(), &format!("{prefix}{name}/"), depth - 1, names);
            }
            _ => {}
        }
    }
}

/// Chooses among the files of a repository or folder. A split model counts as one and comes whole.
pub(super) fn choose(reference: &RepoReference, names: &[&str]) -> Result<Vec<String>, HubError> {
    let models = group(names);
    let shown = reference.to_string();
    if models.is_empty()
        && reference.select == Select::Auto
        && let Some(files) = directory::choose(names)
    {
        return Ok(files);
    }
    let candidates: Vec<&String> = match &reference.select {
        Select::File(file) => {
            models.iter().filter(|(_, files)| files.contains(file)).map(|(key, _)| key).collect()
        }
        Select::Quant(quant) => with_quant(&models, quant),
        Select::Auto => {
            let best = PREFERRED.iter().map(|q| with_quant(&models, q)).find(|m| !m.is_empty());
            best.unwrap_or_else(|| models.keys().collect())
        }
    };
    let key = match (candidates.as_slice(), &reference.select) {
        ([one], _) => *one,
        ([], Select::File(_)) => {
            return Err(HubError::NotFound(format!("{shown}: there is no such file")));
        }
        ([], Select::Quant(_)) if !models.is_empty() => {
            let all = models.keys().cloned().collect::<Vec<_>>().join(", ");
            let problem = format!("{shown}: there is no such quantisation; there are: {all}");
            return Err(HubError::NotFound(problem));
        }
        ([], _) => {
            let problem =
                format!("{shown}: there is no .gguf file, nor config.json with safetensors");
            return Err(HubError::NotFound(problem));
        }
        (several, _) => {
            let choices = several.iter().map(|key| (*key).clone()).collect();
            return Err(HubError::Ambiguous { reference: shown, choices });
        }
    };
    let files = models.get(key).cloned().unwrap_or_default();
    if let Some(missing) = missing_shard(&files) {
        return Err(HubError::NotFound(format!("{shown}: file {missing} of {key} is missing")));
    }
    Ok(files)
}

/// Models by name: a file, or all files of a split set under the name of the set.
fn group(names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut models: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in names {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let lower = name.to_ascii_lowercase();
        let is_side_file = lower.contains("mmproj") || lower.contains("imatrix");
        if !is_gguf(name) || is_side_file || check_path(path).is_err() {
            continue;
        }
        let key = match parse_split_name(name) {
            Some((prefix, _, count)) if folder.is_empty() => format!("{prefix} ({count} files)"),
            Some((prefix, _, count)) => format!("{folder}/{prefix} ({count} files)"),
            None => (*path).to_owned(),
        };
        models.entry(key).or_default().push((*path).to_owned());
    }
    for files in models.values_mut() {
        files.sort();
    }
    models
}

/// The number of the first file that a split set lacks.
fn missing_shard(files: &[String]) -> Option<u32> {
    let name =
        |path: &String| path.rsplit('/').next().and_then(parse_split_name).map(|s| (s.1, s.2));
    let (_, count) = name(files.first()?)?;
    (1..=count).find(|&n| !files.iter().any(|file| name(file).is_some_and(|s| s.0 == n)))
}

/// Models whose name has `quant` as a part of its own: `Q4_K` is no match for `Q4_K_M`.
fn with_quant<'a>(models: &'a BTreeMap<String, Vec<String>>, quant: &str) -> Vec<&'a String> {
    let quant = quant.to_ascii_lowercase();
    let matches = |key: &&String| {
        let key = key.to_ascii_lowercase();
        let key = key.trim_end_matches(".gguf");
        key.match_indices(&quant).any(|(at, _)| {
            let before = key.get(..at).and_then(|s| s.chars().next_back());
            let after = key.get(at + quant.len()..).and_then(|s| s.chars().next());
            before.is_none_or(|c| matches!(c, '-' | '.' | '/' | '_'))
                && after.is_none_or(|c| matches!(c, '-' | '.' | '/' | ' '))
        })
    };
    models.keys().filter(matches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Reference;

    fn chosen(reference: &str, names: &[&str]) -> Result<Vec<String>, String> {
        let Reference::Repo(reference) = Reference::parse(reference).unwrap() else {
            unreachable!("only repositories here")
        };
        choose(&reference, names).map_err(|e| e.to_string())
    }

    #[test]
    fn quantisations_are_chosen_by_name_or_preference() {
        let many =
            ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf"];
        let plain = ["README.md", "m.q8_0.gguf", "m.f16.gguf"];
        let split = [
            "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf",
            "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf",
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "m-UD-Q4_K_XL.gguf",
        ];
        let whole = ["Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf"];
        type Case<'a> = (&'a str, &'a [&'a str], Result<&'a [&'a str], &'a str>);
        let cases: [Case; 12] = [
            ("hf:o/r", &many, Ok(&["m-Q4_K_M.gguf"])),
            ("hf:o/r:q8_0", &many, Ok(&["m-Q8_0.gguf"])),
            ("hf:o/r:Q4_K", &many, Err("no such quantisation; there are: m-Q2_K.gguf")),
            ("hf:o/r", &plain, Ok(&["m.q8_0.gguf"])),
            ("hf:o/r/m.f16.gguf", &plain, Ok(&["m.f16.gguf"])),
            ("hf:o/r/n.gguf", &plain, Err("no such file")),
            ("hf:o/r", &split, Ok(&whole)),
            ("hf:o/r/Q4_K_M/m-Q4_K_M-00002-of-00002.gguf", &split, Ok(&whole)),
            ("hf:o/r:Q8_0", &split, Err("file 2 of Q8_0/m-Q8_0 (2 files) is missing")),
            ("hf:o/r", &["README.md"], Err("no .gguf file")),
            ("hf:o/r", &["a.gguf", "b.gguf"], Err("name one of: a.gguf, b.gguf")),
            ("hf:o/r", &["../../etc/a.gguf", "/b.gguf", "x/../c.gguf"], Err("no .gguf file")),
        ];
        for (reference, names, expected) in cases {
            match (chosen(reference, names), expected) {
                (Ok(files), Ok(expected)) => assert_eq!(files, expected, "{reference}"),
                (Err(error), Err(expected)) => {
                    assert!(error.contains(expected), "{reference}: {error}");
                }
                (found, _) => panic!("{reference}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
