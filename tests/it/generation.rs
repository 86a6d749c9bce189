//! The generation pipeline: what a request becomes, and what becomes of the tokens.

#![allow(clippy::unwrap_used)] // Helpers of tests are not tests to the lint.

use std::sync::Arc;
use std::time::Duration;

use kolosal_server::chat::TextModel;
use kolosal_server::chat::conversation::{ChatInput, Message, Role};
use kolosal_server::chat::generation::{
    Beat, Collected, End, FinishReason, GenerationRequest, Piece, PromptInput, generate,
    generate_all,
};
use kolosal_server::engine::{Engine, EngineConfig, Sampling, Usage};
use kolosal_server::error::{Error, Kind};
use kolosal_server::model::fake::{FakeConfig, FakeRunner};
use kolosal_server::model::gguf::Metadata;
use kolosal_server::model::{Batch, Logits, Pooling, Runner, RunnerError, RunnerSpec};
use proptest::prelude::*;

/// Bytes are their own ids; behind them the end token and one token of two bytes.
const END: u32 = 256;
const AB: u32 = 257;
const VOCAB: usize = 258;

/// GPT-2's letter for a byte.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let hidden = (0..byte).filter(|byte| !printable(*byte)).count() as u32;
    char::from_u32(256 + hidden).unwrap()
}

pub(crate) fn tiny_metadata() -> Metadata {
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    tokens.extend(["<|im_end|>".to_owned(), "ab".to_owned()]);
    let mut types = vec![1_i32; VOCAB];
    types[END as usize] = 3;
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    metadata.set("tokenizer.ggml.tokens", tokens);
    metadata.set("tokenizer.ggml.token_type", types);
    metadata.set("tokenizer.ggml.merges", vec!["a b"]);
    metadata.set("tokenizer.ggml.eos_token_id", END);
    metadata
}

pub(crate) fn tiny_text_model() -> Arc<TextModel> {
    Arc::new(TextModel::from_gguf(&tiny_metadata()).unwrap())
}

/// Knows one document by heart: whatever the prompt, the next token is the document's at that place.
struct Recital {
    spec: RunnerSpec,
    document: Vec<u32>,
    fails_at: Option<u32>,
}

impl Runner for Recital {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError> {
        let mut data = vec![0.0; batch.logit_rows.len() * VOCAB];
        for (logits, row) in data.chunks_mut(VOCAB).zip(&batch.logit_rows) {
            let position = batch.positions[*row as usize];
            if self.fails_at.is_some_and(|at| position >= at) {
                return Err(RunnerError("the page is torn".to_owned()));
            }
            let next = self.document.get(position as usize + 1).copied().unwrap_or(END);
            logits[next as usize] = 10.0;
        }
        Ok(Logits { data: data.into(), vocab_size: VOCAB })
    }
}

fn start(document: Vec<u32>, fails_at: Option<u32>) -> Engine {
    let spec = RunnerSpec {
        vocab_size: VOCAB,
        context_len: 256,
        num_blocks: 256,
        max_rows: 64,
        kv_bytes_per_block: 1,
        weight_bytes: 1,
        hidden: 0,
        pooling: Pooling::Mean,
        device: "test".to_owned(),
        ..RunnerSpec::default()
    };
    let config = EngineConfig { max_batch_tokens: 64, ..EngineConfig::default() };
    Engine::start(Box::new(Recital { spec, document, fails_at }), config).unwrap()
}

/// An engine that goes on with these bytes.
fn reciting(document: &[u8]) -> Engine {
    start(document.iter().map(|byte| u32::from(*byte)).collect(), None)
}

/// An engine that makes things up, the same for the same prompt and seed.
fn inventing() -> Engine {
    inventing_slowly(Duration::ZERO)
}

fn inventing_slowly(step_delay: Duration) -> Engine {
    let config =
        FakeConfig { vocab_size: VOCAB, max_rows: 64, step_delay, ..FakeConfig::default() };
    Engine::start(Box::new(FakeRunner::new(config)), EngineConfig::default()).unwrap()
}

fn request(prompt: &str) -> GenerationRequest {
    GenerationRequest {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ..GenerationRequest::new(PromptInput::Text(prompt.to_owned()))
    }
}

async fn collect(engine: &Engine, request: GenerationRequest) -> Result<Collected, Error> {
    generate(&tiny_text_model(), engine, request).await?.collect().await
}

/// All pieces and ends in the order they came.
async fn stream(engine: &Engine, request: GenerationRequest) -> (Vec<Piece>, Vec<End>) {
    let mut generation = generate(&tiny_text_model(), engine, request).await.unwrap();
    let (mut pieces, mut ends) = (Vec::new(), Vec::new());
    while let Some(step) = generation.next().await {
        for beat in step.beats {
            match beat {
                Beat::Progress { .. } | Beat::Open(_) | Beat::Close { .. } => {}
                Beat::Piece(piece) => pieces.push(piece),
                Beat::End(end) => ends.push(end),
                Beat::Failed(error) => panic!("{error}"),
            }
        }
    }
    assert!(generation.next().await.is_none());
    (pieces, ends)
}

fn is_piece(beat: &Beat) -> bool {
    matches!(beat, Beat::Piece(_))
}

#[tokio::test]
async fn text_goes_on_until_the_end_token() {
    let engine = reciting("Grüße, Welt! 🎉".as_bytes());
    let collected = collect(&engine, request("Gr")).await.unwrap();
    let choice = &collected.choices[0];
    assert_eq!(choice.text(), "üße, Welt! 🎉");
    assert_eq!((choice.reason, &choice.stop_string), (FinishReason::Stop, &None));
    let completion_tokens = "üße, Welt! 🎉".len() as u32;
    assert_eq!(choice.tokens.len() as u32, completion_tokens, "the end token is not output");
    let want = Usage { prompt_tokens: 2, completion_tokens, ..Usage::default() };
    assert_eq!(collected.tally.usage, want);
    assert!(choice.logprobs.is_empty());
    // Streamed, each piece is whole characters with the tokens that they came from.
    let (deltas, ends) = stream(&engine, request("Gr")).await;
    assert_eq!(deltas.iter().map(|delta| delta.text.as_str()).collect::<String>(), choice.text());
    for delta in &deltas {
        let bytes: Vec<u32> = delta.text.bytes().map(u32::from).collect();
        assert_eq!(delta.tokens, bytes, "{delta:?}");
    }
    assert_eq!((ends.len(), ends[0].usage.completion_tokens), (1, completion_tokens));
}

#[tokio::test]
async fn chats_go_through_the_template() {
    let engine = reciting(&[b'x'; 120]);
    let input = ChatInput {
        messages: vec![Message::text(Role::User, "hi")],
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    let prompt_tokens = tiny_text_model().chat_prompt(&input).unwrap().len() as u32;
    let chat = GenerationRequest {
        max_tokens: Some(3),
        ..GenerationRequest { prompt: PromptInput::Chat(input), ..request("") }
    };
    let collected = collect(&engine, chat).await.unwrap();
    assert_eq!(collected.choices[0].text(), "xxx");
    assert_eq!(collected.tally.usage.prompt_tokens, prompt_tokens);
}

#[tokio::test]
async fn stop_strings_end_the_text() {
    let engine = reciting(b"> one two three two");
    // Stop strings, included, min_tokens; text, which of them, tokens of the text, generated tokens.
    type Case =
        (&'static [&'static str], bool, u32, &'static str, Option<&'static str>, usize, u32);
    let cases: &[Case] = &[
        (&[], false, 0, "one two three two", None, 17, 17),
        (&["nowhere"], false, 0, "one two three two", None, 17, 17),
        (&["two"], false, 0, "one ", Some("two"), 4, 7),
        (&["two"], true, 0, "one two", Some("two"), 7, 7),
        (&["three", "e t"], false, 0, "on", Some("e t"), 2, 5),
        (&["one"], false, 0, "", Some("one"), 0, 3),
        (&["one"], false, 3, "one two three two", None, 17, 17),
        (&["two"], false, 7, "one two three ", Some("two"), 14, 17),
        // Held back to the end, then sent.
        (&["two!"], false, 0, "one two three two", None, 17, 17),
    ];
    for case in cases {
        let (stop, include_stop, min_tokens, text, matched, num_tokens, generated) = *case;
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let request = GenerationRequest { stop, include_stop, min_tokens, ..request("> ") };
        let collected = collect(&engine, request.clone()).await.unwrap();
        let choice = &collected.choices[0];
        assert_eq!(choice.text(), text, "{case:?}");
        assert_eq!(choice.stop_string.as_deref(), matched, "{case:?}");
        assert_eq!(choice.tokens.len(), num_tokens, "{case:?}");
        assert_eq!(collected.tally.usage.completion_tokens, generated, "{case:?}");
        assert_eq!(choice.reason, FinishReason::Stop, "{case:?}");
        let (deltas, _) = stream(&engine, request).await;
        let streamed: String = deltas.iter().map(|delta| delta.text.as_str()).collect();
        assert_eq!(streamed, text, "{case:?}");
    }
}

#[tokio::test]
async fn a_stop_string_may_end_inside_a_token() {
    let document = [b'>', b'x', b' '].map(u32::from).into_iter().chain([AB, u32::from(b'c')]);
    let engine = start(document.collect(), None);
    let stop = GenerationRequest { stop: vec!["a".to_owned()], logprobs: Some(0), ..request(">") };
    let collected = collect(&engine, stop).await.unwrap();
    let choice = &collected.choices[0];
    assert_eq!((choice.text().as_str(), choice.tokens.len()), ("x ", 2));
    assert_eq!(choice.logprobs.len(), 2);
    assert_eq!(collected.tally.usage.completion_tokens, 3);
    let tokens = GenerationRequest { stop_token_ids: vec![AB], ..request(">") };
    let choice = &collect(&engine, tokens).await.unwrap().choices[0];
    assert_eq!((choice.text().as_str(), choice.reason), ("x ", FinishReason::Stop));
    assert_eq!(choice.stop_string, None);
}

#[tokio::test]
async fn lengths_are_kept() {
    let engine = reciting("aaé then more".as_bytes());
    for (max_tokens, text) in [(1, "a"), (2, "a"), (3, "aé"), (4, "aé ")] {
        let limited = GenerationRequest { max_tokens: Some(max_tokens), ..request("a") };
        let collected = collect(&engine, limited).await.unwrap();
        let choice = &collected.choices[0];
        assert_eq!((choice.text().as_str(), choice.reason), (text, FinishReason::Length));
        assert_eq!(choice.tokens.len() as u32, max_tokens);
        assert_eq!(collected.tally.usage.completion_tokens, max_tokens);
    }
    let capped = GenerationRequest { default_max_tokens: Some(3), ..request("a") };
    assert_eq!(collect(&engine, capped).await.unwrap().choices[0].text(), "aé");
    let endless = reciting(&[b'x'; 400]);
    let collected = collect(&endless, request(&"x".repeat(250))).await.unwrap();
    assert_eq!(collected.choices[0].text(), "xxxxxx", "what fits into the context");
    let on =
        GenerationRequest { ignore_eos: true, max_tokens: Some(6), ..request("aaé then mor") };
    let collected = collect(&engine, on).await.unwrap();
    assert_eq!(collected.choices[0].text(), "e", "end tokens have no text");
    assert_eq!(collected.choices[0].tokens[1..], [END; 5]);
    assert_eq!(collected.choices[0].reason, FinishReason::Length);
}

#[tokio::test]
async fn an_empty_answer_is_an_answer() {
    let engine = reciting(b"all");
    let (deltas, ends) = stream(&engine, request("all")).await;
    assert!(deltas.is_empty());
    assert_eq!((ends[0].reason, ends[0].usage.completion_tokens), (FinishReason::Stop, 0));
}

#[tokio::test]
async fn of_a_prompt_nothing_is_cut_and_answers_end_with_the_context() {
    let engine = reciting(b"x");
    for (prompt, max_tokens) in [(256, None), (300, None), (256, Some(1))] {
        let request = GenerationRequest { max_tokens, ..request(&"x".repeat(prompt)) };
        let error = collect(&engine, request).await.unwrap_err();
        assert_eq!((error.kind, error.code), (Kind::Invalid, Some("context_length_exceeded")));
        assert_eq!(error.param.as_deref(), Some("prompt"));
        for number in ["256".to_owned(), prompt.to_string()] {
            assert!(error.message.contains(&number), "{error}");
        }
    }
    for max_tokens in [56, 57, u32::MAX] {
        let long = GenerationRequest {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..request(&"x".repeat(200))
        };
        let collected = collect(&engine, long).await.unwrap();
        assert_eq!(collected.tally.usage.completion_tokens, 56, "{max_tokens}");
        assert_eq!(collected.choices[0].reason, FinishReason::Length);
    }
}

#[tokio::test]
async fn bad_requests_name_the_field() {
    type Edit = fn(&mut GenerationRequest);
    let cases: &[(&str, Edit)] = &[
        ("n", |r| r.n = 0),
        ("n", |r| r.n = 129),
        ("best_of", |r| (r.n, r.best_of) = (3, Some(2))),
        ("best_of", |r| r.best_of = Some(129)),
        ("logprobs", |r| r.logprobs = Some(21)),
        ("min_tokens", |r| (r.min_tokens, r.max_tokens) = (5, Some(4))),
        ("stop", |r| r.stop = vec!["x".to_owned(); 17]),
        ("stop[1]", |r| r.stop = vec!["x".to_owned(), String::new()]),
        ("stop[0]", |r| r.stop = vec!["x".repeat(1025)]),
        ("stop_token_ids[0]", |r| r.stop_token_ids = vec![258]),
        ("temperature", |r| r.sampling.temperature = f32::NAN),
        ("temperature", |r| r.sampling.temperature = -0.1),
        ("top_p", |r| r.sampling.top_p = 1.1),
        ("min_p", |r| r.sampling.min_p = -1.0),
        ("repetition_penalty", |r| r.sampling.repetition_penalty = 0.0),
        ("presence_penalty", |r| r.sampling.presence_penalty = f32::NAN),
        ("frequency_penalty", |r| r.sampling.frequency_penalty = f32::INFINITY),
        ("logit_bias.258", |r| r.sampling.logit_bias = vec![(258, 1.0)]),
        ("logit_bias", |r| r.sampling.logit_bias = vec![(7, f32::NAN)]),
        ("prompt", |r| r.prompt = PromptInput::Text(String::new())),
        ("prompt", |r| r.prompt = PromptInput::Tokens(Vec::new())),
        ("prompt[1]", |r| r.prompt = PromptInput::Tokens(vec![1, 258])),
    ];
    let engine = reciting(b"x");
    for (param, edit) in cases {
        let mut request = request("x");
        edit(&mut request);
        let error = collect(&engine, request.clone()).await.unwrap_err();
        assert_eq!((error.kind, error.param.as_deref()), (Kind::Invalid, Some(*param)), "{error}");
    }
    let none = generate_all(&tiny_text_model(), &engine, Vec::new()).await;
    assert_eq!(none.err().and_then(|error| error.param).as_deref(), Some("prompt"));
    let narrow = GenerationRequest {
        sampling: Sampling { top_p: 0.0, ..Sampling::default() },
        ..request("x")
    };
    assert!(collect(&engine, narrow).await.is_ok(), "top_p 0 is the likeliest token alone");
}

#[tokio::test]
async fn log_probabilities_come_with_their_tokens() {
    let engine = reciting("né!".as_bytes());
    let asked = GenerationRequest { logprobs: Some(2), max_tokens: Some(3), ..request("n") };
    let (deltas, _) = stream(&engine, asked).await;
    let texts: Vec<_> = deltas.iter().map(|delta| delta.text.as_str()).collect();
    assert_eq!(texts, ["é", "!"], "both tokens of a character come with it");
    let logprobs: Vec<_> = deltas.iter().flat_map(|delta| &delta.logprobs).collect();
    let bytes: Vec<_> = logprobs.iter().map(|token| token.token.bytes.clone()).collect();
    assert_eq!(bytes, ["é".as_bytes()[..1].to_vec(), "é".as_bytes()[1..].to_vec(), vec![b'!']]);
    assert_eq!(logprobs[0].token.text, "\u{fffd}");
    assert_eq!(logprobs[2].token.text, "!");
    for token in &logprobs {
        assert!(token.logprob.is_some_and(|logprob| (-0.1..0.0).contains(&logprob)), "{token:?}");
        assert_eq!(token.top.len(), 2);
        assert_eq!(token.top[0].0, token.token);
    }
    let on = GenerationRequest {
        ignore_eos: true,
        logprobs: Some(0),
        max_tokens: Some(4),
        ..request("né")
    };
    let choice = &collect(&engine, on).await.unwrap().choices[0];
    assert_eq!(choice.logprobs[1].token.text, "<|im_end|>", "control tokens by their name");
    assert!(choice.logprobs[1].token.bytes.is_empty());
}

#[tokio::test]
async fn the_prompt_is_echoed() {
    let engine = reciting(b"one two");
    let echo = GenerationRequest { echo: true, max_tokens: Some(2), ..request("one") };
    let choice = &collect(&engine, echo.clone()).await.unwrap().choices[0];
    assert_eq!((choice.text().as_str(), choice.tokens.len()), ("one t", 5));
    let tokens = PromptInput::Tokens(b"one".map(u32::from).to_vec());
    let ids = GenerationRequest { prompt: tokens, logprobs: Some(1), ..echo.clone() };
    let choice = &collect(&engine, ids).await.unwrap().choices[0];
    assert_eq!(choice.text(), "one t");
    let known: Vec<bool> = choice.logprobs.iter().map(|token| token.logprob.is_some()).collect();
    assert_eq!(known, [false, true, true, true, true]);
    // Only the prompt: its stop strings do not count, and nothing is generated.
    for logprobs in [None, Some(0)] {
        let only = GenerationRequest {
            max_tokens: Some(0),
            stop: vec!["n".to_owned()],
            logprobs,
            ..echo.clone()
        };
        let collected = collect(&engine, only).await.unwrap();
        let choice = &collected.choices[0];
        assert_eq!((choice.text().as_str(), choice.reason), ("one", FinishReason::Length));
        assert_eq!(choice.logprobs.len(), if logprobs.is_some() { 3 } else { 0 });
        assert_eq!(collected.tally.usage.completion_tokens, 0);
    }
}

#[tokio::test]
async fn choices_share_their_prompt() {
    let engine = inventing();
    let random = |n, seed| GenerationRequest {
        n,
        seed: Some(seed),
        max_tokens: Some(8),
        ..GenerationRequest::new(PromptInput::Tokens((0..70).collect()))
    };
    let three = collect(&engine, random(3, 5)).await.unwrap();
    assert_eq!(three.choices.iter().map(|choice| choice.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((three.tally.usage.prompt_tokens, three.tally.usage.completion_tokens), (70, 24));
    assert_eq!(engine.stats().prefix_hit_tokens, 2 * 64, "two of three found it in the cache");
    assert_ne!(three.choices[0].tokens, three.choices[1].tokens);
    for (i, choice) in three.choices.iter().enumerate() {
        let alone = collect(&engine, random(1, 5 + i as u64)).await.unwrap();
        assert_eq!(alone.choices[0].tokens, choice.tokens, "choice {i} has seed {}", 5 + i);
        assert_eq!(alone.tally.usage.cached_tokens, 64, "whole blocks of the prompt");
    }
    let unseeded = GenerationRequest { seed: None, max_tokens: Some(24), ..random(2, 0) };
    let pair = collect(&engine, unseeded).await.unwrap();
    assert_ne!(pair.choices[0].tokens, pair.choices[1].tokens);
}

#[tokio::test]
async fn the_best_are_returned() {
    let engine = inventing();
    let random = |n, best_of, logprobs| GenerationRequest {
        n,
        best_of,
        logprobs,
        seed: Some(11),
        max_tokens: Some(6),
        ..GenerationRequest::new(PromptInput::Tokens(vec![1, 2, 3]))
    };
    let mut all = collect(&engine, random(8, None, Some(0))).await.unwrap().choices;
    let sum = |choice: &kolosal_server::chat::generation::CollectedChoice| {
        choice.logprobs.iter().filter_map(|token| token.logprob).map(f64::from).sum::<f64>()
    };
    all.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
    let best = collect(&engine, random(2, Some(8), None)).await.unwrap();
    assert_eq!(best.choices.len(), 2);
    for (i, choice) in best.choices.iter().enumerate() {
        assert_eq!((choice.index as usize, &choice.tokens), (i, &all[i].tokens));
        assert!(choice.logprobs.is_empty(), "nobody asked for them");
    }
    assert_eq!(best.tally.usage.completion_tokens, 48, "those that were not chosen cost as well");
}

#[tokio::test]
async fn several_prompts_are_one_generation() {
    let engine = reciting(b"abcdef");
    let requests = vec![
        GenerationRequest { n: 2, ..request("a") },
        GenerationRequest { stop: vec!["f".to_owned()], ..request("abcd") },
    ];
    let mut generation = generate_all(&tiny_text_model(), &engine, requests.clone()).await.unwrap();
    let mut texts = vec![String::new(); 3];
    while let Some(step) = generation.next().await {
        for beat in step.beats {
            if let Beat::Piece(piece) = beat {
                texts[step.index as usize].push_str(&piece.text);
            }
        }
    }
    assert_eq!(texts, ["bcdef", "bcdef", "de"], "\"ab\" is one token");
    let usage = generation.tally().usage;
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (1 + 3, 5 + 5 + 3));
    let generation = generate_all(&tiny_text_model(), &engine, requests).await.unwrap();
    let collected = generation.collect().await.unwrap();
    assert_eq!(collected.choices.len(), 3);
}

#[tokio::test]
async fn dropping_cancels() {
    let engine = inventing_slowly(Duration::from_millis(1));
    let long = GenerationRequest {
        n: 3,
        max_tokens: Some(4000),
        ..GenerationRequest::new(PromptInput::Tokens(vec![1]))
    };
    let mut generation = generate(&tiny_text_model(), &engine, long).await.unwrap();
    while generation.next().await.is_some_and(|step| !step.beats.iter().any(is_piece)) {}
    drop(generation);
    engine.idle().await;
    assert!(engine.stats().generated_tokens < 12_000, "none came to its end");
}

#[tokio::test]
async fn failures_are_told() {
    let engine = start(vec![u32::from(b'x'); 64], Some(10));
    let mut generation = generate(&tiny_text_model(), &engine, request("xxxxx")).await.unwrap();
    let mut beats = Vec::new();
    while let Some(step) = generation.next().await {
        beats.extend(step.beats);
    }
    let Some(Beat::Failed(error)) = beats.pop() else { panic!("{beats:?}") };
    assert!(error.message.contains("torn"), "{error}");
    assert!(beats.iter().any(is_piece), "what was there");
    let error = collect(&start(vec![0; 64], Some(10)), request("xxxxx")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Internal);
    let gone = reciting(b"x");
    gone.shutdown();
    let error = collect(&gone, request("x")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever bytes a model utters and whatever the stop strings: the text ends where the first of
    /// them is complete, and the pieces of the stream are the text.
    #[test]
    fn text_ends_at_the_first_stop(
        document in proptest::collection::vec(
            prop_oneof![Just(b'a'), Just(b'b'), Just(0xc3), Just(0xa9), any::<u8>()], 1..60),
        stops in proptest::collection::vec("[abé]{1,4}", 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // A character that is cut at the end is left out.
        let tail = document.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
        let is_cut = std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none());
        let kept = if is_cut { document.len() - tail.len() } else { document.len() };
        let whole = String::from_utf8_lossy(&document[..kept]).into_owned();
        let ends = stops.iter().filter_map(|stop| Some((whole.find(stop.as_str())?, stop.len())));
        let first = ends.min_by_key(|(at, len)| (at + len, *at));
        let want = first.map_or(whole.as_str(), |(at, _)| &whole[..at]);
        let engine = reciting(&[b">".as_slice(), &document].concat());
        let asked = GenerationRequest { stop: stops, logprobs: Some(0), ..request(">") };
        let (deltas, finished) = runtime.block_on(stream(&engine, asked));
        let text: String = deltas.iter().map(|delta| delta.text.as_str()).collect();
        prop_assert_eq!(&text, want);
        prop_assert_eq!(finished[0].stop_string.is_some(), first.is_some());
        for delta in &deltas {
            prop_assert_eq!(delta.tokens.len(), delta.logprobs.len());
        }
        if first.is_none() {
            let tokens: Vec<u32> = deltas.into_iter().flat_map(|delta| delta.tokens).collect();
            let bytes: Vec<u32> = document.iter().map(|byte| u32::from(*byte)).collect();
            prop_assert_eq!(tokens, bytes);
        }
    }
}
