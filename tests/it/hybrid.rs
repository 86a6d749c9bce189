//! Models whose layers carry a state: prefixes are found again wherever a conversation goes on, and give
//! the same bits.

use std::path::Path;

use kolosal_server::engine::{Engine, EngineConfig, Job, Outcome, Request, Sampling};
use kolosal_server::model::fake::{FakeConfig, FakeRunner};
use kolosal_server::model::gguf::Gguf;
use kolosal_server::model::{DeviceChoice, RunnerOptions, load_runner};

use crate::engine::prompt;

/// Ends messages.
const END: u32 = 63;

fn engine(num_states: usize) -> Engine {
    let model =
        FakeConfig { num_states, num_blocks: 1200, context_len: 9000, ..FakeConfig::default() };
    let config = EngineConfig { name: "hybrid".into(), ..EngineConfig::default() };
    Engine::start(Box::new(FakeRunner::new(model)), config).unwrap()
}

/// A message of `len` tokens, the last of which is [`END`].
fn message(len: usize, seed: u32) -> Vec<u32> {
    let mut tokens: Vec<u32> = prompt(len - 1, seed).iter().map(|token| token % 60).collect();
    tokens.push(END);
    tokens
}

fn request(prompt: Vec<u32>, max_tokens: u32) -> Request {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Request { prompt, max_tokens, sampling, stop_tokens: vec![END], ..Request::default() }
}

fn run(engine: &Engine, prompt: Vec<u32>, max_tokens: u32) -> (Outcome, Vec<u32>) {
    let job: Job = engine.submit(request(prompt, max_tokens)).unwrap();
    job.wait_blocking().unwrap();
    let result = job.result();
    (result.outcome.unwrap(), result.tokens)
}

/// What an application asks and what of it was computed beyond what is new.
#[derive(Default)]
struct Trace {
    /// All tokens that the engine has seen, by request.
    seen: Vec<Vec<u32>>,
    /// Of each request that shares a beginning with one before: tokens computed beyond the new ones.
    beyond: Vec<usize>,
}

impl Trace {
    /// Asks, and returns the answer.
    fn ask(&mut self, engine: &Engine, prompt: &[u32], max_tokens: u32) -> Vec<u32> {
        let common = |seen: &Vec<u32>| seen.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let known = self.seen.iter().map(common).max().unwrap_or(0);
        let (outcome, answer) = run(engine, prompt.to_vec(), max_tokens);
        let computed = prompt.len() - outcome.usage.cached_tokens as usize;
        self.beyond.push(computed.saturating_sub(prompt.len() - known));
        self.seen.push([prompt, &answer].concat());
        answer
    }

    /// The share of requests that computed no more than 64 tokens that were known.
    fn good(&self) -> f64 {
        let good = self.beyond.iter().filter(|beyond| **beyond <= 64).count();
        good as f64 / self.beyond.len() as f64
    }
}

/// Four conversations of an agent in turns, each with a system message in common, with a request for a title
/// in between, a tail that is edited now and then, and templates that write an answer differently later.
fn agents(engine: &Engine, turns: u32) -> Trace {
    let mut trace = Trace::default();
    let system = message(1500, 1);
    let mut chats: Vec<Vec<u32>> = (0..4).map(|_| system.clone()).collect();
    for turn in 0..turns {
        for (index, chat) in (0..).zip(&mut chats) {
            let seed = turn * 4 + index;
            let question = message(40 + (seed as usize * 37) % 200, 100 + seed);
            let open = [2, 3, 4];
            let asked = [&chat[..], &question, &open].concat();
            let answer = trace.ask(engine, &asked, 30 + seed % 50);
            if seed % 5 == 1 {
                // The question is put in other words.
                let question = message(60, 500 + seed);
                let asked = [&chat[..], &question, &open].concat();
                trace.ask(engine, &asked, 20);
            }
            if seed % 7 == 2 {
                let title = message(50, 900);
                trace.ask(engine, &[&chat[..], &question, &title, &open].concat(), 10);
            }
            // Some templates leave out how an answer was opened.
            let opened: &[u32] = if index % 2 == 0 { &open } else { &open[..1] };
            *chat = [&asked[..asked.len() - 3], opened, &answer, &[END]].concat();
        }
    }
    trace
}

#[test]
fn conversations_of_agents_are_read_once() {
    let engine = engine(160);
    let trace = agents(&engine, 12);
    // The first of all has nothing to share.
    assert!(trace.beyond.len() > 60);
    let worst = trace.beyond.iter().max().unwrap();
    assert!(trace.good() >= 0.99, "{}, at worst {worst}: {:?}", trace.good(), trace.beyond);
}

#[test]
fn few_pages_cost_time_and_nothing_else() {
    // Two for each of four that run: one can be kept, at times.
    let engine = engine(9);
    let trace = agents(&engine, 4);
    assert!(trace.beyond.len() > 20);
    assert_eq!(engine.stats().running, 0);
}

#[test]
fn a_second_question_about_the_same_text_finds_where_they_part() {
    let engine = engine(40);
    let text = message(2000, 3);
    let ask = |seed| [&text[..1990], &message(100, seed)[..99]].concat();
    let cached = |seed| run(&engine, ask(seed), 4).0.usage.cached_tokens;
    assert_eq!(cached(1), 0);
    // No message ends there, and nobody knew that the texts would part.
    assert_eq!(cached(2), 0);
    // Now it is known.
    assert_eq!(cached(3), 1990 / 32 * 32);
}

fn tiny(name: &str, prefix_cache: bool, max_draft_tokens: usize) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/parity/{name}.gguf"));
    let options = RunnerOptions {
        device: DeviceChoice::Cpu,
        n_ctx: 256,
        n_parallel: 4,
        threads: 2,
        ..RunnerOptions::default()
    };
    let runner = load_runner(&Gguf::open(&path).unwrap(), &options).unwrap();
    assert!(runner.spec().num_states >= 8, "{name} carries a state");
    let config = EngineConfig {
        name: name.to_owned(),
        prefix_cache,
        max_draft_tokens,
        drafts_always: max_draft_tokens > 0,
        ..EngineConfig::default()
    };
    Engine::start(runner, config).unwrap()
}

/// Tokens and all log-probabilities, as bits.
fn bits(job: &Job) -> Vec<(u32, Vec<u32>)> {
    job.wait_blocking().unwrap();
    let result = job.result();
    let of = |top: &[(u32, f32)]| top.iter().map(|(_, logprob)| logprob.to_bits()).collect();
    let tokens = result.tokens.iter().zip(&result.logprobs);
    tokens.map(|(token, of_token)| (*token, of(&of_token.top))).collect()
}

#[test]
fn hits_drafts_and_company_do_not_change_a_bit() {
    for name in ["qwen35", "lfm2", "granitehybrid", "mamba2"] {
        let asked = |turn: u32| {
            let tokens: Vec<u32> =
                prompt(40 + 30 * turn as usize, 5).iter().map(|t| t + 3).collect();
            Request { logprobs: Some(5), ..request(tokens, 40) }
        };
        let cold = tiny(name, false, 0);
        let expected: Vec<_> =
            (0..4).map(|turn| bits(&cold.submit(asked(turn)).unwrap())).collect();
        for drafts in [0, 4] {
            let warm = tiny(name, true, drafts);
            let jobs: Vec<Job> = (0..4).map(|turn| warm.submit(asked(turn)).unwrap()).collect();
            let first: Vec<_> = jobs.iter().map(bits).collect();
            assert_eq!(first, expected, "{name}, all at once, {drafts} guesses");
            for turn in 0..4 {
                let job = warm.submit(asked(turn)).unwrap();
                assert_eq!(bits(&job), expected[turn as usize], "{name}, turn {turn} again");
                let cached = job.result().outcome.unwrap().usage.cached_tokens;
                assert!(cached >= 32, "{name}, turn {turn}: {cached} tokens of the cache");
            }
        }
    }
}
