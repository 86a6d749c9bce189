//! `kolosal run`: a dialogue in the terminal, or one answer for a prompt.

mod answerer;
mod dialogue;
mod keeping;
mod screen;
mod settings;

use std::io::Read;

use serde_json::Value;

use super::args::RunArgs;
use super::failure::{Context, Failure, Outcome};
use super::output::stdin_is_terminal;
use super::{App, interruptible};
use answerer::Answerer;
use dialogue::Dialogue;
use screen::{Chat, message};
use settings::Settings;

/// Bytes of a file that is read as context.
const MAX_FILE_BYTES: u64 = 16 << 20;

pub(super) fn run(app: &App, args: &RunArgs) -> Outcome {
    // Here it asks for numbers about answers; said twice, for the log as well.
    let mut app = App { global: app.global.clone(), out: app.out };
    let is_verbose = app.global.verbose > 0;
    app.global.verbose = app.global.verbose.saturating_sub(1);
    let settings = Settings::new(args, is_verbose).map_err(Failure::usage)?;
    let files = files(args)?;
    let prompt = one_prompt(args)?;
    let runtime = App::runtime(2)?;
    let answerer = match runtime.block_on(interruptible(Answerer::find(&app, args))) {
        Ok(answerer) => answerer,
        Err(failure) => {
            // A fetch that was interrupted may hold a thread; nobody need wait for it.
            runtime.shutdown_background();
            return Err(failure);
        }
    };
    let mut messages: Vec<Value> = Vec::new();
    messages.extend(args.system.as_ref().map(|system| message("system", system)));
    let chat = Chat { app: &app, args, answerer, runtime };
    match prompt {
        Some(prompt) => {
            messages.push(message("user", &(files + &prompt)));
            chat.answer(&settings, &messages).map(drop)
        }
        None => {
            if !files.is_empty() {
                messages.push(message("user", files.trim_end()));
            }
            Dialogue::new(&chat, settings, messages).run()
        }
    }
}

/// The files that are read as context, each under its name.
fn files(args: &RunArgs) -> Outcome<String> {
    let mut all = String::new();
    for path in &args.files {
        let mut text = String::new();
        let file = std::fs::File::open(path).context(path.display())?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).context(path.display())?;
        if text.len() as u64 > MAX_FILE_BYTES {
            let limit = format!("{}: more than {MAX_FILE_BYTES} bytes", path.display());
            return Err(Failure::failed(limit));
        }
        all.extend([&*path.display().to_string(), ":\n\n", text.trim_end(), "\n\n"]);
    }
    Ok(all)
}

/// The prompt to answer once: the arguments, or what is piped in; both together when both are there.
fn one_prompt(args: &RunArgs) -> Outcome<Option<String>> {
    let mut prompt = args.prompt.join(" ");
    if !stdin_is_terminal() {
        let mut piped = String::new();
        std::io::stdin().lock().read_to_string(&mut piped).context("standard input")?;
        if prompt.is_empty() {
            prompt = piped;
        } else if !piped.trim().is_empty() {
            prompt = format!("{prompt}\n\n{piped}");
        }
        if prompt.trim().is_empty() && args.files.is_empty() {
            return Err(Failure::usage("no prompt: standard input is empty"));
        }
        return Ok(Some(prompt));
    }
    Ok((!prompt.is_empty()).then_some(prompt))
}
