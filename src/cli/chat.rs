//! `kolosal run`: a dialogue in the terminal, or one answer for a prompt.

use std::io::Read;
use std::sync::Arc;

use rustyline::error::ReadlineError;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::RunArgs;
use super::assembly::{self, Caller};
use super::failure::{Context, Failure, Outcome};
use super::output::stdin_is_terminal;
use super::{App, interruptible};
use crate::chat::conversation::{Message, Role};
use crate::chat::generation::{
    Beat, BlockKind, End, FinishReason, GenerationRequest, PromptInput, generate,
};
use crate::chat::{ChatInput, SamplingDefaults};
use crate::config::ModelConfig;
use crate::registry::{Loaded, Loader};

/// Ends the dialogue.
const GOODBYE: [&str; 3] = ["/bye", "/exit", "/quit"];
/// Said at the first Ctrl-C of an empty prompt.
const HOW_TO_END: &str = "Ctrl-D, or Ctrl-C again, ends";
/// Forgets what was said.
const CLEAR: &str = "/clear";

pub(super) fn run(app: &App, args: &RunArgs) -> Outcome {
    let runtime = App::runtime(2)?;
    let loaded = match load(app, args, &runtime) {
        Ok(loaded) => loaded,
        Err(failure) => {
            // A fetch that was interrupted may hold a thread; nobody need wait for it.
            runtime.shutdown_background();
            return Err(failure);
        }
    };
    let mut messages = Vec::new();
    if let Some(system) = &args.system {
        messages.push(Message::text(Role::System, system));
    }
    let chat = Chat { app, args, loaded, runtime };
    match one_prompt(args)? {
        Some(prompt) => chat.answer(&mut messages, &prompt),
        None => chat.dialogue(messages),
    }
}

/// A slash and one word of letters, or a question mark.
fn is_command(line: &str) -> bool {
    let letters = |word: &str| word.chars().all(|c| c.is_ascii_alphabetic() || c == '?');
    line.strip_prefix('/').is_some_and(letters)
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
        if prompt.trim().is_empty() {
            return Err(Failure::usage("no prompt: standard input is empty"));
        }
    }
    Ok((!prompt.is_empty()).then_some(prompt))
}

fn load(app: &App, args: &RunArgs, runtime: &tokio::runtime::Runtime) -> Outcome<Loaded> {
    let mut config = app.configure_quietly()?;
    config.engine.n_parallel = 1;
    if let Some(threads) = args.compute.threads {
        config.engine.threads = threads;
    }
    if let Some(list) = &args.compute.cpu_affinity {
        config.engine.cpu_affinity = Some(list.text.clone());
    }
    let model = ModelConfig {
        reference: args.model.clone(),
        n_ctx: args.compute.n_ctx,
        quantize: args.compute.quantize.map(|target| target.name().to_owned()),
        ..ModelConfig::default()
    };
    let spec = assembly::engine_spec(&model, &config.engine).map_err(Failure::usage)?;
    let hub = Arc::new(assembly::hub(&config, Caller::Person)?);
    let loader = assembly::loader(&config, hub, assembly::progress(app.out.quiet));
    let loaded = runtime.block_on(interruptible(async {
        let path = loader.locate(&spec).await?;
        let load = move || loader.load(&spec, &path, &CancellationToken::new());
        let loading = tokio::task::spawn_blocking(load);
        loading.await.map_err(Failure::failed)?.map_err(Failure::from)
    }))?;
    loaded.info.warnings.iter().for_each(|text| app.out.note(text));
    Ok(loaded)
}

/// Reads a line at the terminal. The editor takes Ctrl-C for itself while it lives, so it lives for one line.
fn read_line(history: &[String]) -> rustyline::Result<String> {
    let mut editor = rustyline::DefaultEditor::new()?;
    for line in history {
        editor.add_history_entry(line)?;
    }
    editor.readline(">>> ")
}

struct Chat<'a> {
    app: &'a App,
    args: &'a RunArgs,
    loaded: Loaded,
    runtime: tokio::runtime::Runtime,
}

impl Chat<'_> {
    fn dialogue(&self, mut messages: Vec<Message>) -> Outcome {
        let system = messages.clone();
        let commands = format!("{CLEAR} forgets, {} ends", GOODBYE[0]);
        self.app.out.note(format!("{} — {commands}", self.args.model));
        let (mut was_interrupted, mut history) = (false, Vec::new());
        loop {
            let line = match read_line(&history) {
                Ok(line) => line,
                // The first may be meant for an answer that has just ended, or for the line.
                Err(ReadlineError::Interrupted) if !was_interrupted => {
                    was_interrupted = true;
                    self.app.out.note(HOW_TO_END);
                    continue;
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(Failure::failed(error)),
            };
            was_interrupted = false;
            match line.trim() {
                "" => {}
                CLEAR => messages.clone_from(&system),
                word if GOODBYE.contains(&word) => return Ok(()),
                // A mistyped command is no question to the model; a path such as /etc/hosts may be.
                word if is_command(word) => self.app.out.note(format!("no {word}: {commands}")),
                prompt => {
                    history.push(prompt.to_owned());
                    match self.answer(&mut messages, prompt) {
                        Err(Failure::Interrupted) => self.app.out.note("\ninterrupted"),
                        Err(Failure::Failed(reason)) => {
                            self.app.out.note(format!("error: {reason}"));
                        }
                        other => other?,
                    }
                }
            }
        }
    }

    /// Sends a message and prints the answer as it comes; both are added to the dialogue.
    fn answer(&self, messages: &mut Vec<Message>, prompt: &str) -> Outcome {
        messages.push(Message::text(Role::User, prompt));
        let work = interruptible(self.stream(messages));
        let answer = self.runtime.block_on(work).inspect_err(|_| {
            messages.pop();
        })?;
        messages.push(Message::text(Role::Assistant, answer));
        Ok(())
    }

    async fn stream(&self, messages: &[Message]) -> Outcome<String> {
        let request = self.request(messages);
        let mut generation = generate(&self.loaded.text, &self.loaded.engine, request).await?;
        let mut answer = String::new();
        while let Some(step) = generation.next().await {
            for beat in step.beats {
                match beat {
                    Beat::Progress { .. } | Beat::Open(_) | Beat::Close { .. } => {}
                    Beat::Piece(piece) => {
                        if !self.app.out.json {
                            self.app.out.piece(&piece.text)?;
                        }
                        if piece.kind == BlockKind::Text {
                            answer.push_str(&piece.text);
                        }
                    }
                    Beat::End(end) => self.finish(&answer, &end)?,
                    Beat::Failed(error) => return Err(error.into()),
                }
            }
        }
        Ok(answer)
    }

    fn finish(&self, answer: &str, end: &End) -> Outcome {
        if !self.app.out.json {
            return self.app.out.line("");
        }
        let reason = match end.reason {
            FinishReason::Stop => "stop",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        };
        self.app.out.json(&json!({
            "text": answer,
            "finish_reason": reason,
            "prompt_tokens": end.usage.prompt_tokens,
            "completion_tokens": end.usage.completion_tokens,
            "ttft_ms": end.timings.ttft_ms,
            "decode_ms": end.timings.decode_ms,
        }))
    }

    fn request(&self, messages: &[Message]) -> GenerationRequest {
        let input = ChatInput {
            messages: messages.to_vec(),
            add_generation_prompt: true,
            ..ChatInput::default()
        };
        let mut request = GenerationRequest::new(PromptInput::Chat(input));
        request.max_tokens = self.args.max_tokens;
        request.seed = self.args.seed;
        request.said.temperature = self.args.temperature;
        request.otherwise = SamplingDefaults::OURS;
        request
    }
}
