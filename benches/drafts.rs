//! Guessed continuations: tokens a second of an engine that guesses against one that does not.
//!
//! `cargo bench --bench drafts -- --model FILE --sequences 1,4,8,16 --max-tokens 128 --rounds 3`
//!
//! Both engines take turns over the same requests, and must give the same tokens. One line of JSON a
//! task and number of sequences: the medians of tokens a second while decoding, their ratio, that of
//! the times to the first token, and how many guesses were computed and right. Without a model a tiny
//! one is made, of which the figures mean nothing.
#![allow(clippy::print_stdout)]

mod common;

use std::sync::Arc;

use common::{Dice, Options, print};
use kolosal_server::chat::conversation::{ChatInput, Message, Role};
use kolosal_server::chat::grammar::{CompiledGrammar, Grammar, GrammarCompiler};
use kolosal_server::chat::{Special, TextModel};
use kolosal_server::engine::{Drafts, Engine, EngineConfig, Job, Request, Sampling};
use kolosal_server::model::gguf::Gguf;
use kolosal_server::model::{RunnerOptions, load_runner};
use serde_json::json;

/// A text to work on, of many words that no model knows by heart.
const CODE: &str = include_str!("../src/engine/budget.rs");

/// What is asked for.
struct Task {
    name: &'static str,
    question: String,
    /// Text that the output is said to be.
    prediction: Option<String>,
    grammar: Option<CompiledGrammar>,
    temperature: f32,
    /// How the answer begins, as the prompt says.
    begins: String,
}

fn main() {
    let options =
        Options::read(&["model", "sequences", "max-tokens", "rounds", "threads", "tasks"]);
    let (model, gguf) = options.model();
    let text = TextModel::from_gguf(gguf.metadata()).expect("a tokenizer");
    let (max_tokens, rounds) = (options.number("max-tokens", 64), options.number("rounds", 3));
    let threads = options.number("threads", 0);
    let engines = [0, 16].map(|max_draft| engine(&gguf, threads, max_draft));
    let wanted = options.text("tasks", "");
    for task in tasks(&text).iter().filter(|task| task.name.contains(&wanted)) {
        for sequences in options.numbers("sequences", "1,4") {
            let mut plain = Vec::new();
            let mut guessing = Vec::new();
            for round in 0..rounds {
                let request = |i: usize| request(&text, task, max_tokens, round * 100 + i);
                // Who comes first finds the machine as the other left it.
                let first = round % 2;
                let mut runs = [first, 1 - first].map(|i| run(&engines[i], sequences, request));
                runs.rotate_left(first);
                let [without, with] = runs;
                assert!(without.tokens == with.tokens, "guessing changed the output");
                plain.push(without);
                guessing.push(with);
            }
            report(&model, task.name, sequences, &plain, &guessing);
        }
    }
}

fn engine(gguf: &Gguf, threads: usize, max_draft_tokens: usize) -> Engine {
    let options = RunnerOptions { threads, n_ctx: 2048, ..RunnerOptions::default() };
    let config = EngineConfig {
        max_running: 16,
        max_batch_tokens: 512,
        max_draft_tokens,
        ..EngineConfig::default()
    };
    Engine::start(load_runner(gguf, &options).expect("the model loads"), config).expect("a thread")
}

fn tasks(text: &TextModel) -> Vec<Task> {
    let lines: Vec<&str> = CODE.lines().skip(20).take(40).collect();
    let code = lines.join("\n");
    let edited = code.replace("seconds_per_row", "time_per_row");
    // The model goes on with a beginning of the answer, or a small one would not do what it is asked.
    let beginning = |text: &str| text.split_inclusive('\n').take(6).collect();
    let rest = |text: &str| text.split_inclusive('\n').skip(6).collect();
    let schema = json!({
        "type": "object",
        "properties": {
            "customer_identifier": {"type": "integer", "minimum": 0, "maximum": 99999},
            "delivery_address": {"type": "object", "properties": {
                "street_and_number": {"type": "string", "maxLength": 24},
                "postal_code": {"type": "string", "pattern": "^[0-9]{5}$"}},
                "required": ["street_and_number", "postal_code"], "additionalProperties": false},
            "is_gift_wrapped": {"type": "boolean"},
            "shipping_priority": {"enum": ["standard_delivery", "express_delivery"]}},
        "required": ["customer_identifier", "delivery_address", "is_gift_wrapped", "shipping_priority"],
        "additionalProperties": false
    });
    let compiler = GrammarCompiler::new(Arc::clone(&text.tokenizer), 1 << 20).expect("a compiler");
    let grammar = compiler.compile(&Grammar::JsonSchema(schema)).expect("a schema");
    let task = |name, question: &str| Task {
        name,
        question: question.to_owned(),
        prediction: None,
        grammar: None,
        temperature: 0.0,
        begins: String::new(),
    };
    vec![
        task("free", "Write a long story about a lighthouse keeper and the sea."),
        Task { temperature: 0.9, ..task("free, drawn", "Write a long story about a river.") },
        Task { begins: beginning(&code), ..task("repeat", &format!("Repeat this code:\n{code}")) },
        Task {
            begins: beginning(&edited),
            ..task("edit", &format!("Rename seconds_per_row to time_per_row in:\n{code}"))
        },
        Task {
            begins: beginning(&edited),
            prediction: Some(rest(&code)),
            ..task("edit with prediction", &format!("Rename seconds_per_row in:\n{code}"))
        },
        task("summary", &format!("Summarise what this code does:\n{code}")),
        Task { grammar: Some(grammar), ..task("schema", "Invent an order as JSON.") },
    ]
}

fn request(text: &TextModel, task: &Task, max_tokens: usize, seed: usize) -> Request {
    let mut dice = Dice(seed as u64 + 1);
    let question = format!("{}\n(Number {}.)", task.question, dice.below(100_000));
    let mut messages = vec![Message::text(Role::User, question)];
    if !task.begins.is_empty() {
        messages.push(Message::text(Role::Assistant, task.begins.as_str()));
    }
    let input = ChatInput {
        messages,
        add_generation_prompt: task.begins.is_empty(),
        continue_final_message: !task.begins.is_empty(),
        ..ChatInput::default()
    };
    let encode = |prediction: &String| text.tokenizer.encode(prediction, Special::Plain);
    Request {
        prompt: text.chat_prompt(&input).expect("a prompt"),
        max_tokens: max_tokens as u32,
        sampling: Sampling {
            temperature: task.temperature,
            seed: seed as u64,
            ..Sampling::default()
        },
        constraint: task.grammar.as_ref().map(CompiledGrammar::constraint),
        prediction: task.prediction.as_ref().map(encode).unwrap_or_default(),
        ..Request::default()
    }
}

/// What one engine made of the requests.
struct Run {
    tokens: Vec<Vec<u32>>,
    tok_s: f64,
    ttft_ms: f64,
    drafts: Drafts,
}

fn run(engine: &Engine, sequences: usize, request: impl Fn(usize) -> Request) -> Run {
    let jobs: Vec<Job> =
        (0..sequences).map(|i| engine.submit(request(i)).expect("a job")).collect();
    let ends: Vec<_> = jobs.iter().map(|job| job.wait_blocking().expect("an answer")).collect();
    let tokens: u32 = ends.iter().map(|end| end.usage.completion_tokens - 1).sum();
    let longest = ends.iter().map(|end| end.timings.decode_ms).fold(0.0, f64::max);
    let mut drafts = Drafts::default();
    ends.iter().for_each(|end| drafts += end.usage.drafts);
    Run {
        tokens: jobs.iter().map(|job| job.result().tokens).collect(),
        tok_s: f64::from(tokens) * 1e3 / longest,
        ttft_ms: middle(ends.iter().map(|end| end.timings.ttft_ms)),
        drafts,
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn report(model: &str, task: &str, sequences: usize, plain: &[Run], guessing: &[Run]) {
    let of = |runs: &[Run], value: fn(&Run) -> f64| middle(runs.iter().map(value));
    let ratio = |value: fn(&Run) -> f64| {
        middle(plain.iter().zip(guessing).map(|(plain, guessing)| value(guessing) / value(plain)))
    };
    let mut drafts = Drafts::default();
    guessing.iter().for_each(|run| drafts += run.drafts);
    print(&json!({
        "bench": "drafts", "model": model, "task": task, "sequences": sequences,
        "tok_s": round(of(plain, |run| run.tok_s)),
        "tok_s_guessing": round(of(guessing, |run| run.tok_s)),
        "ratio": round(ratio(|run| run.tok_s)), "ttft_ratio": round(ratio(|run| run.ttft_ms)),
        "draft_n": drafts.computed, "draft_n_accepted": drafts.right,
        "tokens": guessing.iter().flat_map(|run| &run.tokens).map(Vec::len).sum::<usize>(),
    }));
}
