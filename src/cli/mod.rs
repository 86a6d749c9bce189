//! The `kolosal` program: commands, flags, exit codes, what is printed.
//!
//! The only layer that prints. Every command is a function from its arguments and an App to an
//! outcome; exit codes are decided in one place.

mod args;
mod assembly;
mod bench;
mod chat;
mod client;
mod compute;
mod config;
mod doctor;
mod failure;
mod inspect;
mod lanes;
mod launch;
mod logits;
mod models;
mod output;
mod perplexity;
pub mod progress;
mod roofline;
mod selftest;
mod serve;
mod tokenize;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser};
use serde_json::Value;

use crate::config::{Config, Layers};
use crate::server;
use args::{Cli, Command, GlobalArgs, ServeArgs};
use failure::{Failure, Outcome};
use output::Output;

/// What every command has at hand.
struct App {
    global: GlobalArgs,
    out: Output,
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let out = Output { json: cli.global.json, quiet: cli.global.quiet };
    let app = App { global: cli.global, out };
    let outcome = app.run(cli.command);
    crate::trace::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed | Failure::Ended(_)) {
                output::error_line(format!("error: {failure}"));
            }
            failure.exit_code()
        }
    }
}

/// Parses arguments; what is no command is taken as arguments of `serve`, so that `kolosal -p 9000` and
/// `kolosal model.gguf` serve. A word that can be no model stays an error, and never starts a server.
fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let arguments = asked_for_help(arguments);
    let error = match Cli::try_parse_from(&arguments) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    let may_serve = match error.kind() {
        ErrorKind::UnknownArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => true,
        ErrorKind::InvalidSubcommand => {
            let word = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string);
            error.get(ContextKind::SuggestedSubcommand).is_none()
                && word.is_some_and(|word| may_be_model(&word))
        }
        _ => false,
    };
    let names_command = arguments.iter().skip(1).any(|argument| {
        argument.to_str().is_some_and(|word| Cli::command().find_subcommand(word).is_some())
    });
    if !may_serve || names_command {
        return Err(error);
    }
    let mut arguments = arguments;
    arguments.insert(1.min(arguments.len()), "serve".into());
    Cli::try_parse_from(arguments)
}

/// `kolosal help`, `kolosal help run` and `kolosal version` as the flags that they mean.
fn asked_for_help(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let flag = match arguments.get(1).and_then(|word| word.to_str()) {
        Some("help") => "--help",
        Some("version") => "--version",
        _ => return arguments,
    };
    arguments.remove(1);
    arguments.push(flag.into());
    arguments
}

/// Whether a word can name a model: a file that is there, a reference, a name of the catalogue, or one
/// with its reference.
fn may_be_model(word: &str) -> bool {
    word.contains(['/', '\\', ':', '.', '=']) || std::path::Path::new(word).exists()
}

impl App {
    fn run(&self, command: Command) -> Outcome {
        match command {
            Command::Serve(args) => serve::run(self, &args),
            Command::Run(args) => chat::run(self, &args),
            Command::Launch(args) => launch::run(self, &args),
            Command::Pull(args) => models::pull(self, &args),
            Command::List(args) => models::list(self, &args),
            Command::Show(args) => models::show(self, &args),
            Command::Rm(args) => models::remove(self, &args),
            Command::Ps(args) => client::ps(self, &args),
            Command::Stop(args) => client::stop(self, &args),
            Command::Bench(args) => bench::run(self, &args),
            Command::Logits(args) => logits::run(self, &args),
            Command::Perplexity(args) => perplexity::run(self, &args),
            Command::Tokenize(args) => tokenize::run(self, &args),
            Command::Inspect(args) => inspect::run(self, &args),
            Command::Openapi => self.out.piece(server::openapi_json()),
            Command::Completions(args) => {
                let mut script = Vec::new();
                clap_complete::generate(args.shell, &mut Cli::command(), "kolosal", &mut script);
                self.out.piece(&String::from_utf8_lossy(&script))
            }
            Command::Config(args) => config::run(self, &args),
            Command::Doctor => doctor::run(self),
            Command::Selftest(args) => selftest::run(self, &args),
        }
    }

    /// The configuration's layers with the flags of `serve` on top.
    fn layers(&self, args: &ServeArgs) -> Outcome<Layers> {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
            .collect();
        let flags = config::flags(&self.global, args);
        Ok(crate::config::load(self.global.config.as_deref(), &variables, &flags)?)
    }

    /// The configuration, and logging as it says.
    fn configure(&self, args: &ServeArgs) -> Outcome<Config> {
        let layers = self.layers(args)?;
        let config = layers.build()?;
        crate::trace::init(&config.logging).map_err(Failure::usage)?;
        layers.notes.iter().for_each(|note| tracing::warn!("{note}"));
        Ok(config)
    }

    /// As [`Self::configure`] for commands that are no server: they log warnings only, unless told otherwise.
    fn configure_quietly(&self) -> Outcome<Config> {
        let layers = self.layers(&ServeArgs::default())?;
        let mut config = layers.build()?;
        if layers.source("logging.level") == crate::config::Source::Default {
            "warn".clone_into(&mut config.logging.level);
        }
        crate::trace::init(&config.logging).map_err(Failure::usage)?;
        Ok(config)
    }

    /// A runtime for commands that wait for network or engines.
    fn runtime(worker_threads: usize) -> Outcome<tokio::runtime::Runtime> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if worker_threads > 0 {
            builder.worker_threads(worker_threads);
        }
        builder.enable_all().build().map_err(Failure::failed)
    }
}

/// Ends work when the user presses Ctrl-C; what was fetched so far is kept for the next try.
async fn interruptible<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    }
}

/// Waits for work of a command, or for Ctrl-C.
fn wait_for<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = App::runtime(2)?;
    let outcome = runtime.block_on(interruptible(work));
    // What still blocks a thread then is of no use to anybody.
    runtime.shutdown_background();
    outcome
}

/// A key of the configuration, its value, and the flag that sets it.
type Flag = (&'static str, Value, &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let arguments = line.split_whitespace().map(OsString::from).collect();
        parse(arguments).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_command_it_serves() {
        for line in [
            "kolosal",
            "kolosal -p 9000 --host ::1",
            "kolosal --idle-timeout 5 --n-ctx 64 --n-parallel 2 --threads 1 --no-default-model",
            "kolosal a=model.gguf other.gguf",
            "kolosal smollm2:135m --quiet",
            "kolosal --quiet",
            "kolosal serve m.gguf",
        ] {
            assert!(matches!(parsed(line), Ok(Command::Serve(_))), "{line}");
        }
        let Ok(Command::Serve(args)) = parsed("kolosal a=x.gguf y.gguf -p 1") else { panic!() };
        assert_eq!((args.models, args.port), (vec!["a=x.gguf".into(), "y.gguf".into()], Some(1)));
    }

    #[test]
    fn misspelt_commands_and_flags_are_errors() {
        for (line, text) in [
            ("kolosal pul", "pull"),
            ("kolosal nonsense", "nonsense"),
            ("kolosal chat", "chat"),
            ("kolosal help", "Usage: kolosal"),
            ("kolosal help run", "Usage: kolosal run"),
            ("kolosal version", env!("CARGO_PKG_VERSION")),
            ("kolosal --prot 1", "--port"),
            ("kolosal list --port 1", "--port"),
            ("kolosal -p 70000", "70000"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(text), "{line}: {error}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
