//! The server behind an agent: one that runs, or one that is started for the run.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::App;
use crate::cli::args::{ClientArgs, LaunchArgs};
use crate::cli::client::{base_url, call, key, percent_encode};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::models::hub;
use crate::hub::DEFAULT_MODEL;
use crate::registry::admit::detect_budget;

use super::clients::Target;

/// The context of a server that is started: agents begin with prompts of ten thousands of tokens.
const AGENT_CONTEXT: u32 = 32_768;
/// A smaller one is told.
pub(super) const SMALL_CONTEXT: u64 = 16_384;
/// Longest wait for a model to be loaded, which may have to be fetched.
const PATIENCE: Duration = Duration::from_hours(6);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// What would serve the agent.
pub(super) enum Plan {
    /// A server that runs.
    There(Target),
    /// One that is to be started with this model.
    Start(String),
}

/// Looks for a server that runs and has the model, or chooses a model to start one with.
///
/// # Errors
/// A server was named that does not answer or does not have the model.
pub(super) fn plan(app: &App, args: &LaunchArgs) -> Outcome<Plan> {
    let engines = match call(app, &args.client, reqwest::Method::GET, "/engines") {
        Ok(answer) => answer["engines"].as_array().cloned().unwrap_or_default(),
        Err(failure) if args.client.url.is_some() => return Err(failure),
        Err(_) => return Ok(Plan::Start(chosen(app, args)?)),
    };
    let is_wanted = |engine: &&Value| match &args.model {
        Some(model) => ["engine_id", "model_path"].iter().any(|key| engine[*key] == **model),
        None => engine["status"] != "failed",
    };
    // One that is loaded answers at once.
    let is_loaded = |engine: &&&Value| engine["status"] == "loaded";
    let wanted: Vec<&Value> = engines.iter().filter(is_wanted).collect();
    if let Some(engine) = wanted.iter().find(is_loaded).or(wanted.first()) {
        return target(app, &args.client, engine).map(Plan::There);
    }
    if args.client.url.is_some() {
        let model = args.model.as_deref().unwrap_or("that works");
        return Err(Failure::failed(format!("the server has no model {model}")));
    }
    chosen(app, args).map(Plan::Start)
}

fn target(app: &App, client: &ClientArgs, engine: &Value) -> Outcome<Target> {
    let config = app.configure_quietly()?;
    let context = engine.pointer("/model/context_len").or(engine.pointer("/parameters/n_ctx"));
    Ok(Target {
        url: base_url(client, &config),
        key: key(client, &config)?,
        model: engine["engine_id"].as_str().unwrap_or_default().to_owned(),
        context: context.and_then(Value::as_u64),
    })
}

/// The model that was named, or the largest on this machine that fits its memory, or the default one.
fn chosen(app: &App, args: &LaunchArgs) -> Outcome<String> {
    if let Some(model) = &args.model {
        return Ok(model.clone());
    }
    let room = detect_budget().unwrap_or(u64::MAX);
    let models = hub(app)?.list();
    let fitting = models.into_iter().filter(|model| model.bytes < room / 5 * 4);
    let largest = fitting.max_by_key(|model| model.bytes);
    Ok(largest.map_or_else(|| DEFAULT_MODEL.to_owned(), |model| model.name))
}

/// A server that ends with the run.
pub(super) struct Started {
    child: Child,
    pub(super) target: Target,
}

impl Started {
    /// Starts a server with a model and waits until it is loaded.
    ///
    /// # Errors
    /// The server ends before that, with its last words.
    pub(super) fn new(app: &App, args: &LaunchArgs, model: &str) -> Outcome<Self> {
        let program = std::env::current_exe().map_err(Failure::failed)?;
        let mut command = Command::new(program);
        if let Some(config) = &app.global.config {
            command.arg("--config").arg(config);
        }
        if app.global.offline {
            command.arg("--offline");
        }
        let n_ctx = args.n_ctx.unwrap_or(AGENT_CONTEXT).to_string();
        // What the server logs must not get between the lines of the agent.
        command.args(["serve", model, "--port", "0", "--log-format", "text", "--n-ctx", &n_ctx]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C is for the agent.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(Failure::failed)?;
        let lines = lines(app, &mut child);
        let target = Target {
            url: String::new(),
            key: key(&args.client, &app.configure_quietly()?)?,
            model: String::new(),
            context: None,
        };
        let mut started = Self { child, target };
        started.wait_for_address(&lines)?;
        started.wait_for_model(app, &lines)?;
        Ok(started)
    }

    fn wait_for_address(&mut self, lines: &Receiver<String>) -> Outcome {
        let mut last = String::new();
        while let Ok(line) = lines.recv() {
            let url = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next());
            if let Some(url) = url {
                url.clone_into(&mut self.target.url);
                return Ok(());
            }
            last = line;
        }
        Err(Failure::failed(format!("the server did not start: {}", last_words(&last))))
    }

    fn wait_for_model(&mut self, app: &App, lines: &Receiver<String>) -> Outcome {
        let client =
            ClientArgs { url: Some(self.target.url.clone()), api_key: self.target.key.clone() };
        let (end, mut last) = (Instant::now() + PATIENCE, String::new());
        while Instant::now() < end {
            match lines.recv_timeout(PAUSE) {
                Ok(line) => {
                    last = line;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let Ok(answer) = call(app, &client, reqwest::Method::GET, "/engines") else { continue };
            let engines = answer["engines"].as_array().cloned().unwrap_or_default();
            // Beside it there may be models that were made of others, which are not loaded.
            if let Some(engine) = engines.iter().find(|engine| engine["status"] == "loaded") {
                let id = engine["engine_id"].as_str().unwrap_or_default();
                let path = format!("/engines/{}/status", percent_encode(id));
                let status = call(app, &client, reqwest::Method::GET, &path)?;
                let target = target(app, &client, &status)?;
                let key = self.target.key.take();
                self.target = Target { key, ..target };
                return Ok(());
            }
        }
        Err(Failure::failed(last_words(&last)))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended by itself.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        #[cfg(not(unix))]
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What a program says last is why it ended.
fn last_words(line: &str) -> String {
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Where the log of started servers is.
pub(super) fn log_file(app: &App) -> Option<PathBuf> {
    let models = hub(app).ok()?.models_dir().to_owned();
    Some(models.parent()?.join("launch.log"))
}

/// The lines that a server writes, which go to its log as well.
fn lines(app: &App, child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let mut log = log_file(app).and_then(|path| {
        std::fs::create_dir_all(path.parent()?).ok()?;
        File::create(path).ok()
    });
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(log) = &mut log {
                    // A log that cannot be written is no reason to stop.
                    let _full = writeln!(log, "{line}");
                }
                // Nobody listens once the agent runs.
                let _unheard = sender.send(line);
            }
        });
    }
    lines
}
