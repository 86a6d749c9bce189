//! Which models clients may name: by kind of source, and for files by folder.

use std::path::{Component, Path, PathBuf};

use super::Reference;
use crate::config::HubSection;
use crate::error::{Error, Kind, Result};

/// What clients may name. The configuration and the command line may name more.
#[derive(Clone, Debug)]
pub struct Sources {
    allowed: Vec<String>,
    folders: Vec<PathBuf>,
}

impl Default for Sources {
    fn default() -> Self {
        let HubSection { allow_sources, allow_paths, .. } = HubSection::default();
        Self::new(allow_sources, allow_paths)
    }
}

impl Sources {
    /// `allowed`: kinds of [`crate::config::SOURCE_KINDS`], or beginnings of references such as `hf:org/`. `folders`:
    /// where files must lie; none = anywhere.
    pub fn new(allowed: Vec<String>, folders: Vec<PathBuf>) -> Self {
        let folders = folders.into_iter().map(|folder| real(&folder).unwrap_or(folder)).collect();
        Self { allowed, folders }
    }

    /// Checks a reference that a client brought. Looks where a path leads, which may block.
    ///
    /// # Errors
    /// 403 `source_not_allowed`; what is no reference is left to others to refuse.
    pub fn check(&self, reference: &str) -> Result<()> {
        let Ok(reference) = Reference::parse(reference) else { return Ok(()) };
        let kind = match &reference {
            Reference::Path(_) => "path",
            Reference::Catalog(_) => "catalog",
            Reference::Repo(_) => "hf",
            Reference::Url(_) => "url",
            Reference::Package(_) => "pypi",
        };
        let shown = reference.to_string();
        if !self.allowed.iter().any(|entry| entry == kind || begins_with(&shown, entry)) {
            let text = format!(
                "models of the kind {kind} may not be named by clients here; hub.allow_sources lists \
                 what may"
            );
            return Err(refused(text));
        }
        match &reference {
            Reference::Path(path) if !self.has(path) => {
                Err(refused("the file is in none of the folders of hub.allow_paths".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn has(&self, path: &Path) -> bool {
        // What is not there yet lies where it says, unless it says that it climbs.
        let path = real(path).or_else(|| {
            let climbs = path.components().any(|part| part == Component::ParentDir);
            (!climbs).then(|| std::path::absolute(path).ok()).flatten()
        });
        let is_in = |folder: &PathBuf| path.as_ref().is_some_and(|path| path.starts_with(folder));
        self.folders.is_empty() || self.folders.iter().any(is_in)
    }
}

fn real(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

/// Whether a reference begins with whole names of `entry`: `hf:org` allows `hf:org/a`, not `hf:organ/a`.
fn begins_with(reference: &str, entry: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let rest = reference.strip_prefix(entry).filter(|_| entry.contains([':', '/']));
    rest.is_some_and(|rest| !entry.ends_with(is_name) || !rest.starts_with(is_name))
}

fn refused(text: String) -> Error {
    Error::new(Kind::Forbidden, text).with_code("source_not_allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_beginnings_are_allowed() {
        let sources = |allowed: &[&str]| {
            Sources::new(allowed.iter().map(|&entry| entry.to_owned()).collect(), Vec::new())
        };
        let some = sources(&["hf:org/", "pypi:good", "https://host.example/models", "catalog"]);
        for (reference, allowed) in [
            ("hf:org/a:q4_0", true),
            ("hf:organ/a", false),
            ("pypi:good", true),
            ("pypi:good==1.0", true),
            ("pypi:good-not", false),
            ("https://host.example/models/a.gguf", true),
            ("https://host.example/modelsx/a.gguf", false),
            ("https://host.example.evil/models/a.gguf", false),
            ("smollm2:135m", true),
            ("./a.gguf", false),
            ("/a.gguf", false),
        ] {
            let got = some.check(reference);
            assert_eq!(got.is_ok(), allowed, "{reference}: {got:?}");
        }
        assert!(sources(&["path"]).check("/a.gguf").is_ok());
        let default = Sources::default();
        assert!(default.check("hf:org/a").is_ok() && default.check("/a.gguf").is_ok());
        assert_eq!(default.check("pypi:a").unwrap_err().code, Some("source_not_allowed"));
    }

    #[test]
    fn files_outside_of_the_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        for folder in [&inside, &outside] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("m.gguf"), "x").unwrap();
        }
        let sources = Sources::new(vec!["path".to_owned()], vec![inside.clone()]);
        let allows = |path: PathBuf| sources.check(&path.to_string_lossy()).is_ok();
        assert!(allows(inside.join("m.gguf")) && allows(inside.join("absent.gguf")));
        assert!(!allows(outside.join("m.gguf")) && !allows(outside.join("absent.gguf")));
        assert!(
            !allows(inside.join("../out/m.gguf")) && !allows(inside.join("no/../../out/x.gguf"))
        );
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(outside.join("m.gguf"), inside.join("link.gguf")).unwrap();
            assert!(!allows(inside.join("link.gguf")));
        }
    }
}
