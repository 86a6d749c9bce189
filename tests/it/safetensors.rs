//! Models in safetensors directories against what transformers and `tokenizers` say of them.
//!
//! The directories in tests/data/hf are made by tests/tools/make_hf_fixtures.py.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kolosal_server::chat::embedding::{EmbedForm, EmbedInput, embed};
use kolosal_server::chat::rerank::{RankRequest, Scale, rank};
use kolosal_server::chat::{Special, TextModel};
use kolosal_server::engine::{EmbedRequest, Engine, EngineConfig};
use kolosal_server::model::gguf::{Access, Gguf, Writer};
use kolosal_server::model::{
    self, DeviceChoice, Pooling, Purpose, Quantize, RunnerOptions, load_runner, safetensors,
};
use serde_json::{Value, json};

use crate::parity::{rms_distance, whole};

const DECODERS: [&str; 7] = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"];
const EMBEDDERS: [&str; 2] = ["bert", "xlm-roberta"];
const RANKERS: [&str; 2] = ["bert-rank", "xlm-roberta-rank"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf").join(name)
}

fn open(name: &str) -> Gguf {
    model::open(&folder(name), Access::OnDemand).unwrap()
}

pub(crate) fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(folder(name).join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    let bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn options(device: DeviceChoice) -> RunnerOptions {
    RunnerOptions { device, threads: 2, n_parallel: 4, ..RunnerOptions::default() }
}

/// Tokens, and the logits that transformers computes for each, (tokens, vocabulary).
fn reference(name: &str) -> (Vec<u32>, Vec<Vec<f32>>) {
    let expected = expected(name);
    let (tokens, logits) = (ids(&expected["tokens"]), floats(&expected["logits"]));
    let rows = logits.chunks_exact(logits.len() / tokens.len()).map(<[f32]>::to_vec).collect();
    (tokens, rows)
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in DECODERS {
        let (tokens, expected) = reference(name);
        for device in [DeviceChoice::Cpu, DeviceChoice::CandleCpu] {
            let mut runner = load_runner(&open(name), &options(device.clone())).unwrap();
            let distance = rms_distance(&whole(&mut *runner, &tokens), &expected);
            assert!(distance < 1e-3, "{name} on {device:?}: {distance}");
        }
    }
}

#[test]
fn weights_are_quantised_while_loading() {
    let (tokens, expected) = reference("qwen3");
    for (target, limit) in [(Quantize::Q8_0, 0.03), (Quantize::Q5_1, 0.3), (Quantize::Q4_0, 0.6)] {
        let gguf = open("qwen3");
        let quantised = RunnerOptions { quantize: Some(target), ..options(DeviceChoice::Cpu) };
        let floats = load_runner(&gguf, &options(DeviceChoice::Cpu)).unwrap().spec().weight_bytes;
        let mut runner = load_runner(&gguf, &quantised).unwrap();
        assert!(runner.spec().weight_bytes < floats * 7 / 10, "{target}");
        let distance = rms_distance(&whole(&mut *runner, &tokens), &expected);
        assert!(distance > 1e-4 && distance < limit, "{target}: {distance}");
    }
    let tiny = crate::tiny::Tiny {
        ty: kolosal_kernels::quant::GgmlType::Q8_0,
        ..crate::tiny::Tiny::default()
    };
    let again = RunnerOptions { quantize: Some(Quantize::Q4_0), ..options(DeviceChoice::Cpu) };
    let error = load_runner(&tiny.gguf(), &again).err().unwrap().to_string();
    assert!(error.contains("q4_0") && error.contains("Q8_0"), "{error}");
}

#[test]
fn k_types_come_nearer_with_their_bits() {
    let tiny = crate::tiny::Tiny { hidden: 256, width: 512, ..crate::tiny::Tiny::default() };
    let gguf = tiny.gguf();
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 256).collect();
    let run = |quantize: Option<Quantize>| {
        let options = RunnerOptions { quantize, ..options(DeviceChoice::Cpu) };
        let mut runner = load_runner(&gguf, &options).unwrap();
        let logits = whole(&mut *runner, &tokens);
        (logits, runner.spec().weight_bytes)
    };
    let (expected, floats) = run(None);
    let mut last = (0.0, floats / 3);
    for target in [Quantize::Q6K, Quantize::Q5K, Quantize::Q4K] {
        let (logits, bytes) = run(Some(target));
        let distance = rms_distance(&logits, &expected);
        assert!(distance > last.0 && distance < 0.6, "{target}: {distance} after {}", last.0);
        assert!(bytes < last.1, "{target}: {bytes} bytes after {}", last.1);
        last = (distance, bytes);
    }
}

/// Texts that a tokenizer may stumble over.
fn texts() -> Vec<String> {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vocab/inputs.txt");
    let inputs = std::fs::read_to_string(inputs).unwrap();
    let pieces = [
        "cat",
        "Cats",
        " ",
        "  ",
        "\n",
        "\t",
        "12345",
        "'s",
        "'LL",
        "naïve",
        "e\u{301}",
        "é",
        "猫",
        "は",
        "한국",
        "Привет",
        "🙂",
        "ﬁ",
        "…",
        "-",
        "!?",
        ".",
        ",",
        "▁",
        "Ａ",
        "\u{a0}",
        "x_y",
        "CamelCase",
        "they'll",
        "supercalifragilisticexpialidocious",
        "\u{200b}",
        "Größe",
        "\r\n",
        "##",
        "of",
    ];
    let mut state = 1u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % n
    };
    let mut texts: Vec<String> =
        inputs.split("\n__ggml_vocab_test__\n").map(str::to_owned).collect();
    for _ in 0..400 {
        let len = 1 + next(8);
        texts.push((0..len).map(|_| pieces[next(pieces.len())]).collect());
    }
    texts
}

#[test]
fn tokens_equal_those_of_the_tokenizers_crate() {
    let mut failures = Vec::new();
    for name in DECODERS.into_iter().chain(EMBEDDERS).chain(RANKERS) {
        let theirs = tokenizers::Tokenizer::from_file(folder(name).join("tokenizer.json")).unwrap();
        let ours = TextModel::from_gguf(open(name).metadata()).unwrap().tokenizer;
        let mut texts = texts();
        let specials = theirs.get_added_tokens_decoder();
        for special in specials.values().map(|token| token.content.clone()) {
            texts.push(format!("a {special} b{special}{special} c"));
        }
        let mut num_wrong = 0;
        for text in texts {
            let expected = theirs.encode(text.as_str(), false).unwrap().get_ids().to_vec();
            let got = ours.encode(&text, Special::Parse);
            if got != expected {
                num_wrong += 1;
                if num_wrong <= 3 {
                    failures.push(format!("{name} {text:?}: {got:?}, expected {expected:?}"));
                }
            }
            let framed = theirs.encode(text.as_str(), true).unwrap().get_ids().to_vec();
            if got == expected && ours.frame(got.clone()) != framed {
                // A text that already begins or ends as a frame would is not framed twice.
                let is_framed = [&framed[..1], &framed[framed.len() - 1..]]
                    .iter()
                    .any(|end| got.first() == end.first() || got.last() == end.first());
                if !is_framed {
                    failures.push(format!("{name} {text:?} framed: {framed:?}"));
                }
            }
        }
        if num_wrong > 0 {
            failures.push(format!("{name}: {num_wrong} texts"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Words of many scripts, of which some are written with signs that take room, and characters that are
/// alike others.
const SCRIPTS: &[&str] = &[
    "हिन्दी में लिखा हुआ पाठ",
    "বাংলা ভাষায় লেখা কিছু কথা",
    "ภาษาไทยที่เขียนติดกัน",
    "தமிழ் மொழியில் எழுதியது",
    "نص عربي مُشَكَّل قليلاً",
    "한국어로 쓴 글입니다",
    "ﬁne ①②③ ｆｕｌｌ ｗｉｄｔｈ ㎏ ℌ",
    "a\u{85}b c\u{b}d e\u{c}f g\u{1c}h i\u{2028}j",
    "１２３４５ 1234567 ²³ ٣٤٥٦",
];

/// Ids of `SCRIPTS` and of all other texts with a changed `tokenizer.json`, by both programs.
fn assert_same_ids(name: &str, edit: impl Fn(&mut Value)) {
    let dir = copy(name);
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
    let theirs = tokenizers::Tokenizer::from_file(&path).unwrap();
    let gguf = model::open(dir.path(), Access::AtOnce).unwrap();
    let ours = TextModel::from_gguf(gguf.metadata()).unwrap().tokenizer;
    for text in texts().into_iter().chain(SCRIPTS.iter().map(|&text| text.to_owned())) {
        let expected = theirs.encode(text.as_str(), false).unwrap().get_ids().to_vec();
        assert_eq!(ours.encode(&text, Special::Parse), expected, "{name} {text:?}");
    }
}

/// Vowel signs are part of a word, not accents on it.
#[test]
fn word_pieces_of_all_scripts_equal_those_of_the_tokenizers_crate() {
    for strips in [json!(null), json!(true), json!(false)] {
        assert_same_ids("bert-rank", |json| {
            json["normalizer"]["strip_accents"] = strips.clone();
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            // The last tokens give way to the characters of the texts.
            vocab.retain(|_, id| id.as_u64().unwrap() < 100);
            let mut seen = std::collections::BTreeSet::new();
            let characters = SCRIPTS.iter().flat_map(|text| text.chars());
            seen.extend(characters.filter(|c| !c.is_whitespace() && !c.is_ascii()));
            let pieces = seen.iter().flat_map(|c| [format!("##{c}"), c.to_string()]);
            let pieces: Vec<_> = pieces.filter(|piece| !vocab.contains_key(piece)).collect();
            for (piece, id) in pieces.into_iter().take(200).zip(100..) {
                vocab.insert(piece, json!(id));
            }
        });
    }
}

/// Numbers in threes before GPT-2's own words; DeepSeek's steps; the form of compatible characters.
#[test]
fn steps_of_byte_level_tokenizers_equal_those_of_the_tokenizers_crate() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = |uses_own: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
               "use_regex": uses_own})
    };
    let words = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?\
                 [\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    for (steps, form) in [
        (vec![split(r"\p{N}{1,3}"), bytes(true)], "NFC"),
        (vec![split(r"\p{N}{1,3}"), bytes(true)], "NFKC"),
        (
            vec![
                split(r"\p{N}{1,3}"),
                split("[一-龥\u{3040}-ゟ゠-ヿ]+"),
                split(words),
                bytes(false),
            ],
            "NFKC",
        ),
    ] {
        assert_same_ids("qwen2", |json| {
            json["normalizer"] = json!({"type": form});
            json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
        });
    }
}

#[test]
fn side_files_are_read() {
    let llama = open("llama");
    let text = TextModel::from_gguf(llama.metadata()).unwrap();
    assert!(text.template.source().contains("im_start") && text.warning().is_none());
    assert_eq!(text.tokenizer.eog(), [1, 2]);
    assert!(text.tokenizer.add_bos() && text.tokenizer.bos() == Some(0));
    let mistral = open("mistral");
    let key = |key: &str| mistral.metadata().str(key).unwrap().map(str::to_owned);
    assert_eq!(key("tokenizer.chat_template").unwrap(), "{{ messages[0].content }}");
    assert_eq!(key("tokenizer.chat_template.tool_use").unwrap(), "{{ tools }}");
    assert_eq!(mistral.paths().len(), 3);
    let spec = |name: &str| model::arch::describe(&open(name)).unwrap();
    assert_eq!(spec("bert").pooling, Pooling::First);
    assert_eq!(spec("xlm-roberta").pooling, Pooling::Mean);
    assert_eq!((spec("bert").context_len, spec("xlm-roberta").context_len), (160, 160));
}

fn start(name: &str) -> (Arc<TextModel>, Engine) {
    let gguf = open(name);
    let text = Arc::new(TextModel::from_gguf(gguf.metadata()).unwrap());
    let runner = load_runner(&gguf, &options(DeviceChoice::Cpu)).unwrap();
    // Steps are smaller than the longest text, which is computed in one all the same.
    let config = EngineConfig { max_batch_tokens: 16, ..EngineConfig::default() };
    (text, Engine::start(runner, config).unwrap())
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[tokio::test]
async fn embeddings_equal_those_of_transformers() {
    for name in EMBEDDERS {
        let (text, engine) = start(name);
        assert_eq!(engine.spec().purpose, Purpose::Embed);
        let expected = expected(name);
        let cases = expected["texts"].as_array().unwrap();
        let input = |case: &Value| EmbedInput::Text(case["text"].as_str().unwrap().to_owned());
        let together = cases.iter().map(input).collect::<Vec<_>>();
        let together = embed(&text, &engine, together, EmbedForm::default()).await.unwrap();
        let mut num_tokens = 0;
        for (case, vector) in cases.iter().zip(&together.vectors) {
            let tokens = text.tokenizer.encode_prompt(case["text"].as_str().unwrap());
            assert_eq!(tokens, ids(&case["ids"]), "{name}");
            num_tokens += tokens.len();
            let cosine = cosine(vector, &floats(&case["embedding"]));
            assert!(cosine > 0.9999, "{name}: {cosine}");
            // Company changes no bit.
            let alone =
                embed(&text, &engine, vec![input(case)], EmbedForm::default()).await.unwrap();
            assert_eq!(&alone.vectors[0], vector, "{name}");
        }
        assert_eq!(together.prompt_tokens as usize, num_tokens);
        let error = engine.submit(crate::engine::request(vec![5], 1)).err().unwrap();
        assert_eq!(error.param.as_deref(), Some("model"), "{error}");
    }
}

#[test]
fn encoders_in_gguf_equal_those_of_transformers() {
    for name in [
        "nomic-bert",
        "nomic-bert-moe",
        "modern-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "gemma-embedding",
        "llama-embed",
        "eurobert",
    ] {
        let gguf = Gguf::open(&folder(name).join("model.gguf")).unwrap();
        let expected = expected(name);
        let tokens = ids(&expected["tokens"]);
        for device in [DeviceChoice::Cpu, DeviceChoice::CandleCpu] {
            let runner = load_runner(&gguf, &options(device.clone())).unwrap();
            let engine = Engine::start(runner, EngineConfig::default()).unwrap();
            let request = EmbedRequest { prompt: tokens.clone(), ..EmbedRequest::default() };
            let job = engine.embed(request).unwrap();
            job.wait_blocking().unwrap();
            let cosine = cosine(&job.result().embedding.unwrap(), &floats(&expected["mean"]));
            assert!(cosine > 0.99999, "{name} on {device:?}: {cosine}");
        }
    }
}

#[tokio::test]
async fn scores_equal_those_of_transformers() {
    for name in RANKERS {
        let (text, engine) = start(name);
        let expected = expected(name);
        let pairs = expected["pairs"].as_array().unwrap();
        let query = expected["query"].as_str().unwrap().to_owned();
        let document = |pair: &Value| pair["text"].as_str().unwrap().to_owned();
        let request = RankRequest {
            query: query.clone(),
            documents: pairs.iter().map(document).collect(),
            field: "documents",
            ..RankRequest::default()
        };
        let ranking = rank(&text, &engine, request.clone()).await.unwrap();
        assert_eq!(ranking.scale, Scale::Logit);
        let mut num_tokens = 0;
        for (pair, score) in pairs.iter().zip(&ranking.scores) {
            let tokens = |of: &str| text.tokenizer.encode(of, Special::Plain);
            let (ids_of_pair, second_from) =
                text.tokenizer.pair(&tokens(&query), &tokens(&document(pair)));
            assert_eq!(ids_of_pair, ids(&pair["ids"]), "{name}");
            let types: Vec<u32> = (0..ids_of_pair.len() as u32)
                .map(|at| u32::from(second_from.is_some_and(|from| at >= from)))
                .collect();
            assert_eq!(types, ids(&pair["types"]), "{name}");
            num_tokens += ids_of_pair.len();
            let difference = (f64::from(*score) - pair["score"].as_f64().unwrap()).abs();
            assert!(difference < 2e-3, "{name}: {difference}");
        }
        assert_eq!(ranking.prompt_tokens as usize, num_tokens);
        assert!(ranking.relevance().iter().all(|score| (0.0..=1.0).contains(score)));
        // What does not fit is an error unless it may be cut.
        let long = RankRequest { documents: vec!["cats sleep ".repeat(200)], ..request };
        let error = rank(&text, &engine, long.clone()).await.unwrap_err();
        assert_eq!(error.param.as_deref(), Some("documents[0]"), "{error}");
        let cut = RankRequest { cut_to_context: true, ..long.clone() };
        assert_eq!(rank(&text, &engine, cut).await.unwrap().prompt_tokens, 160);
        let few = RankRequest { max_document_tokens: Some(3), ..long };
        assert!(rank(&text, &engine, few).await.unwrap().prompt_tokens < 40);
        let refused =
            embed(&text, &engine, vec![EmbedInput::Tokens(vec![5])], EmbedForm::default()).await;
        assert_eq!(refused.unwrap_err().param.as_deref(), Some("model"));
    }
}

/// A decoder that answers yes or no, as a GGUF file with the prompt that asks it.
#[tokio::test]
async fn judgements_equal_those_of_transformers() {
    let gguf = Gguf::open(&folder("qwen3-reranker").join("model.gguf")).unwrap();
    let text = Arc::new(TextModel::from_gguf(gguf.metadata()).unwrap());
    let runner = load_runner(&gguf, &options(DeviceChoice::Cpu)).unwrap();
    let config = EngineConfig { max_batch_tokens: 64, ..EngineConfig::default() };
    let engine = Engine::start(runner, config).unwrap();
    assert_eq!((engine.spec().purpose, engine.spec().pooling), (Purpose::Rank, Pooling::Last));
    let expected = expected("qwen3-reranker");
    let pairs = expected["pairs"].as_array().unwrap();
    let query = expected["query"].as_str().unwrap().to_owned();
    let documents: Vec<String> =
        pairs.iter().map(|pair| pair["text"].as_str().unwrap().to_owned()).collect();
    for (pair, document) in pairs.iter().zip(&documents) {
        let template = text.rank_template.as_ref().unwrap();
        let (prompt, protected) = template.render(&text.tokenizer, &query, document);
        let tokens = text.tokenizer.encode_except(&prompt, &protected);
        assert_eq!(tokens, ids(&pair["ids"]), "{document}");
    }
    let request = RankRequest { query, documents, field: "documents", ..RankRequest::default() };
    let ranking = rank(&text, &engine, request.clone()).await.unwrap();
    for (pair, score) in pairs.iter().zip(ranking.relevance()) {
        let difference = (f64::from(score) - pair["score"].as_f64().unwrap()).abs();
        assert!(difference < 1e-3, "{difference}");
    }
    // Again, with what the prompts have in common from the cache.
    assert_eq!(rank(&text, &engine, request.clone()).await.unwrap(), ranking);
    assert!(engine.stats().prefix_hit_tokens > 0);
    let long = RankRequest { documents: vec!["cats sleep ".repeat(200)], ..request };
    let error = rank(&text, &engine, long.clone()).await.unwrap_err();
    assert_eq!(error.param.as_deref(), Some("documents[0]"), "{error}");
    let cut = RankRequest { cut_to_context: true, ..long.clone() };
    let cut = rank(&text, &engine, cut).await.unwrap();
    assert!((500..=512).contains(&cut.prompt_tokens), "{}", cut.prompt_tokens);
    let few = RankRequest { max_document_tokens: Some(3), ..long };
    let few = rank(&text, &engine, few).await.unwrap();
    let empty = pairs[2]["ids"].as_array().unwrap().len() as u32;
    assert!(few.prompt_tokens < empty + 4, "{}", few.prompt_tokens);
    let refused = engine.submit(crate::engine::request(vec![5], 1)).err().unwrap();
    assert_eq!(refused.param.as_deref(), Some("model"), "{refused}");
}

/// all-MiniLM-L6-v2, where `KOLOSAL_TEST_EMBED_MODEL` names its directory: tests/data/hf/minilm.json
/// holds what sentence-transformers makes of a few texts.
#[tokio::test]
async fn a_real_embedding_model_equals_sentence_transformers() {
    let Some(dir) = std::env::var_os("KOLOSAL_TEST_EMBED_MODEL").map(PathBuf::from) else {
        return crate::sdk::skipped("KOLOSAL_TEST_EMBED_MODEL is not set");
    };
    let gguf = model::open(&dir, Access::OnDemand).unwrap();
    let text = Arc::new(TextModel::from_gguf(gguf.metadata()).unwrap());
    let runner = load_runner(&gguf, &options(DeviceChoice::Cpu)).unwrap();
    let engine = Engine::start(runner, EngineConfig::default()).unwrap();
    let expected = std::fs::read_to_string(folder("minilm.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    for case in expected.as_array().unwrap() {
        let input = case["text"].as_str().unwrap().to_owned();
        assert_eq!(text.tokenizer.encode_prompt(&input), ids(&case["ids"]), "{input}");
        let got = embed(&text, &engine, vec![EmbedInput::Text(input)], EmbedForm::default())
            .await
            .unwrap();
        let cosine = cosine(&got.vectors[0], &floats(&case["embedding"]));
        assert!(cosine > 0.9999, "{cosine}");
    }
}

/// A file as converters write it, which need not say how scores are pooled.
#[tokio::test]
async fn a_ranker_in_a_gguf_file_gives_the_same_scores() {
    for name in RANKERS {
        let gguf = open(name);
        let mut writer = Writer::new();
        for (key, value) in gguf.metadata().iter().filter(|(key, _)| !key.ends_with("pooling_type"))
        {
            writer.set(key, value.clone());
        }
        for tensor in gguf.tensors() {
            let data = gguf.data(tensor).unwrap();
            writer.tensor(&tensor.name, &tensor.shape, tensor.ty, data).unwrap();
        }
        let file = Gguf::from_bytes(writer.to_bytes()).unwrap();
        let runner = load_runner(&file, &options(DeviceChoice::Cpu)).unwrap();
        let engine = Engine::start(runner, EngineConfig::default()).unwrap();
        let text = Arc::new(TextModel::from_gguf(file.metadata()).unwrap());
        let request = RankRequest {
            query: "cats".to_owned(),
            documents: vec!["The dog sleeps.".to_owned(), "Cats eat.".to_owned()],
            field: "documents",
            ..RankRequest::default()
        };
        let scores = rank(&text, &engine, request.clone()).await.unwrap().scores;
        let (text, engine) = start(name);
        assert_eq!(scores, rank(&text, &engine, request).await.unwrap().scores, "{name}");
    }
}

/// A copy of a fixture to be spoilt.
fn copy(name: &str) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), target.path().join(entry.file_name())).unwrap();
        }
    }
    target
}

#[test]
fn what_is_wrong_with_a_directory_is_said() {
    // File, what is replaced in it, by what, and a part of the error.
    let cases: [(&str, &str, &str, &str, &str); 12] = [
        ("llama", "config.json", "LlamaForCausalLM", "OtherForCausalLM", "'OtherForCausalLM'"),
        (
            "llama",
            "config.json",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": -2",
            "num_hidden",
        ),
        ("llama", "config.json", "\"llama3\"", "\"dynamic\"", "'dynamic'"),
        ("llama", "config.json", "\"silu\"", "\"mish\"", "'mish'"),
        (
            "gemma2",
            "config.json",
            "\"query_pre_attn_scalar\": 16",
            "\"query_pre_attn_scalar\": 8",
            "8; 16",
        ),
        ("llama", "tokenizer.json", "\\\\p{N}{1,3}", "\\\\p{N}{1,4}", "is not known"),
        ("llama", "tokenizer.json", "\"BPE\"", "\"BPX\"", "'BPX'"),
        ("qwen2", "tokenizer.json", "\"NFC\"", "\"NFX\"", "'NFX'"),
        ("bert-rank", "config.json", "\"gelu\"", "\"relu\"", "'relu'"),
        (
            "mistral",
            "model.safetensors.index.json",
            "model-00001-of",
            "../model-00001-of",
            "not the name",
        ),
        (
            "mistral",
            "model.safetensors.index.json",
            "model-00001-of",
            "model-00009-of",
            "model-00009",
        ),
        (
            "xlm-roberta",
            "tokenizer.json",
            "\"precompiled_charsmap\":\"",
            "\"precompiled_charsmap\":\"!",
            "base64",
        ),
    ];
    for (name, file, from, to, wanted) in cases {
        let spoilt = copy(name);
        let path = spoilt.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{name}/{file} has no {from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = safetensors::open(spoilt.path(), Access::OnDemand).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(wanted), "{name}/{file}, {to}: {error:?}");
    }
    for missing in ["config.json", "tokenizer.json", "model.safetensors"] {
        let spoilt = copy("llama");
        std::fs::remove_file(spoilt.path().join(missing)).unwrap();
        let error = safetensors::open(spoilt.path(), Access::OnDemand).unwrap_err().to_string();
        assert!(error.contains(missing), "{error}");
    }
}

#[test]
fn spoilt_files_never_panic() {
    let weights = std::fs::read(folder("bert").join("model.safetensors")).unwrap();
    let spoilt = copy("bert");
    let path = spoilt.path().join("model.safetensors");
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let mut state = 7u64;
    for round in 0..300 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (state >> 33) as usize % (8 + header);
        let mut bytes = weights.clone();
        if round % 10 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] = (state >> 20) as u8;
        }
        std::fs::write(&path, bytes).unwrap();
        // Most changes are found; others are of names or numbers, and then the weights do not fit.
        if let Ok(gguf) = safetensors::open(spoilt.path(), Access::OnDemand) {
            let _ = load_runner(&gguf, &options(DeviceChoice::Cpu));
        }
    }
}
