//! `kolosal doctor`: can this machine serve, and what would it serve with?

use std::net::TcpListener;
use std::path::Path;

use serde::Serialize;

use super::App;
use super::failure::{Failure, Outcome};
use super::models;
use super::output::human_bytes;
use crate::config::system_files;
use crate::model::memory::available;

/// One finding.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Check {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into() }
    }

    fn from_result(name: &'static str, result: Result<String, String>) -> Self {
        match result {
            Ok(detail) => Self { name, ok: true, detail },
            Err(detail) => Self { name, ok: false, detail },
        }
    }
}

pub(super) fn run(app: &App) -> Outcome {
    let config = app.configure_quietly()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tier = kolosal_kernels::detect::tier();
    let address = format!("{}:{}", config.server.host, config.server.port);
    let port = TcpListener::bind((config.server.host.as_str(), config.server.port));
    let hub = models::hub(app)?;
    let models_dir = hub.models_dir().to_owned();
    let checks = vec![
        Check::good("version", env!("CARGO_PKG_VERSION")),
        Check::good("processor", format!("{cores} cores, kernels for {tier:?}")),
        memory(),
        Check::from_result(
            "port",
            port.map(|_| format!("{address} is free"))
                .map_err(|error| format!("{address}: {error}")),
        ),
        Check::from_result("models folder", writable(&models_dir)),
        Check::good("models", format!("{} on this machine", hub.list().len())),
        Check::good("configuration", files()),
    ];
    if app.out.json {
        app.out.json_pretty(&checks)?;
    } else {
        let rows = checks.iter().map(|check| {
            let mark = if check.ok { "ok" } else { "FAIL" };
            vec![mark.to_owned(), check.name.to_owned(), check.detail.clone()]
        });
        app.out.table(&rows.collect::<Vec<_>>())?;
    }
    match checks.iter().filter(|check| !check.ok).count() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!("{failed} of {} checks failed", checks.len()))),
    }
}

fn memory() -> Check {
    let detail = available().map_or_else(
        || "unknown on this system".to_owned(),
        |bytes| format!("{} available", human_bytes(bytes)),
    );
    Check::good("memory", detail)
}

/// Creates the folder and a file in it, and removes the file again.
fn writable(dir: &Path) -> Result<String, String> {
    let probe = dir.join(".doctor");
    let tried = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&probe, b"probe"))
        .and_then(|()| std::fs::remove_file(&probe));
    tried.map(|()| dir.display().to_string()).map_err(|error| format!("{}: {error}", dir.display()))
}

fn files() -> String {
    let found: Vec<String> = system_files()
        .iter()
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    if found.is_empty() { "defaults; no file".to_owned() } else { found.join(", ") }
}
