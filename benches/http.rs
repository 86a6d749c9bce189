//! Load on any OpenAI-compatible server: throughput and latency against the number of clients.
//!
//! `cargo bench --bench http -- --url http://127.0.0.1:8080 --model smollm2:135m --clients 1,4,8,16`
//!
//! Closed loop by default (each client asks again when it has its answer); with `--rate R` open loop:
//! requests arrive at R a second whatever the server does, which is how overload shows. One JSON
//! object a line on stdout; `--svg FILE` draws throughput and time to first token.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Prose without end: every request takes another stretch, so that no two share a prefix.
const WORDS: [&str; 24] = [
    "river", "stone", "morning", "engine", "letter", "garden", "window", "winter", "signal",
    "paper", "harbour", "copper", "shadow", "market", "forest", "thunder", "candle", "bridge",
    "island", "mirror", "kettle", "saddle", "violin", "lantern",
];

/// Times that a request is sent again when its connection breaks before an answer.
const MAX_RETRIES: usize = 2;

struct Options {
    url: String,
    model: String,
    clients: Vec<usize>,
    requests_per_client: usize,
    prompt_words: usize,
    max_tokens: usize,
    rate: Option<f64>,
    label: String,
    svg: Option<String>,
}

/// What one request saw.
struct Answer {
    ttft: Duration,
    /// When each piece of text came.
    times: Vec<Instant>,
    gaps: Vec<Duration>,
    tokens: usize,
    total: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let options = Arc::new(options()?);
    let client = kolosal_server::hub::client_builder().pool_max_idle_per_host(256).build()?;
    ask(&client, &options, 999_983).await?;
    let mut rows = Vec::new();
    for &clients in &options.clients {
        let row = measure(&client, &options, clients).await;
        print_row(&row);
        rows.push(row);
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, svg(&options.label, &rows))?;
    }
    Ok(())
}

fn options() -> Result<Options, Failure> {
    let mut given: HashMap<String, String> = HashMap::new();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        given.insert(name.trim_start_matches("--").to_owned(), value);
    }
    let mut take = |name: &str, default: &str| given.remove(name).unwrap_or(default.to_owned());
    let options = Options {
        url: take("url", "http://127.0.0.1:8080"),
        model: take("model", "smollm2:135m"),
        clients: take("clients", "1,4,8,16")
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()?,
        requests_per_client: take("requests", "3").parse()?,
        prompt_words: take("prompt-words", "110").parse()?,
        max_tokens: take("max-tokens", "64").parse()?,
        rate: Some(take("rate", "0").parse()?).filter(|rate| *rate > 0.0),
        label: take("label", "server"),
        svg: Some(take("svg", "")).filter(|path| !path.is_empty()),
    };
    match given.keys().next() {
        Some(unknown) => Err(format!("unknown option --{unknown}").into()),
        None => Ok(options),
    }
}

/// Runs `clients` clients, or as many requests at the given rate.
async fn measure(client: &reqwest::Client, options: &Arc<Options>, clients: usize) -> Value {
    let start = Instant::now();
    let mut tasks = Vec::new();
    let total = clients * options.requests_per_client;
    for worker in 0..if options.rate.is_some() { total } else { clients } {
        let (client, options) = (client.clone(), options.clone());
        tasks.push(tokio::spawn(async move {
            let seed = |round: usize| (clients * 1_000 + worker) * 1_000 + round;
            let mut answers = Vec::new();
            if let Some(rate) = options.rate {
                tokio::time::sleep(Duration::from_secs_f64(worker as f64 / rate)).await;
                answers.push(ask(&client, &options, seed(0)).await);
                return answers;
            }
            for round in 0..options.requests_per_client {
                answers.push(ask(&client, &options, seed(round)).await);
            }
            answers
        }));
    }
    let mut answers = Vec::new();
    let mut errors = Vec::new();
    for task in tasks {
        for answer in task.await.unwrap_or_default() {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => errors.push(error.to_string()),
            }
        }
    }
    summary(options, clients, start.elapsed(), &answers, &errors)
}

fn summary(
    options: &Options,
    clients: usize,
    wall: Duration,
    answers: &[Answer],
    errors: &[String],
) -> Value {
    let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
    let ttft = sorted_ms(answers.iter().map(|answer| answer.ttft));
    let gaps = sorted_ms(answers.iter().flat_map(|answer| answer.gaps.iter().copied()));
    let total = sorted_ms(answers.iter().map(|answer| answer.total));
    json!({
        "label": options.label, "clients": clients, "rate": options.rate,
        "requests": answers.len(), "errors": errors.len(), "first_error": errors.first(),
        "tokens": tokens, "wall_s": round(wall.as_secs_f64()),
        "tok_s": round(tokens as f64 / wall.as_secs_f64()),
        "steady_tok_s": steady(answers).map(round),
        "ttft_ms_p50": quantile(&ttft, 0.5), "ttft_ms_p95": quantile(&ttft, 0.95),
        "itl_ms_p50": quantile(&gaps, 0.5), "itl_ms_p95": quantile(&gaps, 0.95),
        "e2e_ms_p95": quantile(&total, 0.95),
    })
}

/// Tokens a second while all answers were being written at once, if they ever were.
fn steady(answers: &[Answer]) -> Option<f64> {
    let from = *answers.iter().filter_map(|answer| answer.times.first()).max()?;
    let to = *answers.iter().filter_map(|answer| answer.times.last()).min()?;
    let seconds = to.checked_duration_since(from)?.as_secs_f64();
    let tokens = answers.iter().map(|answer| {
        // A piece may be of several tokens.
        let tokens_each = answer.tokens as f64 / answer.times.len() as f64;
        let pieces = answer.times.iter().filter(|&time| (from..to).contains(time)).count();
        pieces as f64 * tokens_each
    });
    (seconds > 0.0).then(|| tokens.sum::<f64>() / seconds)
}

fn sorted_ms(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len() as f64 * q) as usize;
    round(sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// One streamed chat completion; tokens are counted by the server's usage.
async fn ask(client: &reqwest::Client, options: &Options, seed: usize) -> Result<Answer, Failure> {
    let mut prompt = format!("Tell a long story number {seed} about:");
    let mut state = seed as u64 + 1;
    for _ in 0..options.prompt_words {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        prompt.push(' ');
        prompt.push_str(WORDS[(state >> 33) as usize % WORDS.len()]);
    }
    let body = json!({
        "model": options.model, "max_tokens": options.max_tokens, "temperature": 0, "stream": true,
        "stream_options": {"include_usage": true}, "ignore_eos": true,
        "messages": [{"role": "user", "content": prompt}],
    });
    let start = Instant::now();
    let url = format!("{}/v1/chat/completions", options.url);
    // A server may close an idle connection just as it is used again: the request is sent anew.
    let mut sent = client.post(&url).json(&body).send().await;
    for _ in 0..MAX_RETRIES {
        match sent {
            Err(error) if error.is_request() => sent = client.post(&url).json(&body).send().await,
            _ => break,
        }
    }
    let response = sent?.error_for_status()?;
    let mut bytes = response.bytes_stream();
    let (mut buffer, mut first, mut last) = (String::new(), None, start);
    let (mut times, mut gaps, mut tokens) = (Vec::new(), Vec::new(), 0);
    while let Some(chunk) = bytes.next().await {
        buffer.push_str(&String::from_utf8_lossy(&chunk?));
        while let Some(end) = buffer.find('\n') {
            let line: String = buffer.drain(..=end).collect();
            let Some(data) = line.trim().strip_prefix("data: ") else { continue };
            let Ok(event) = serde_json::from_str::<Value>(data) else { continue };
            if let Some(error) = event.get("error") {
                return Err(error.to_string().into());
            }
            if let Some(count) = event["usage"]["completion_tokens"].as_u64() {
                tokens = count as usize;
            }
            let has_text = event["choices"][0]["delta"]["content"]
                .as_str()
                .is_some_and(|text| !text.is_empty());
            if has_text {
                let now = Instant::now();
                match first {
                    None => first = Some(now),
                    Some(_) => gaps.push(now - last),
                }
                last = now;
                times.push(now);
            }
        }
    }
    let first = first.ok_or("no text in the answer")?;
    Ok(Answer { ttft: first - start, times, gaps, tokens, total: start.elapsed() })
}

fn print_row(row: &Value) {
    println!("{row}");
}

/// Two small charts side by side: tokens a second, and time to first token (p95), by clients.
fn svg(label: &str, rows: &[Value]) -> String {
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"260\" font-family=\"sans-serif\" font-size=\"12\">",
    );
    for (left, key, title) in [
        (50.0, "tok_s", "tokens/s in total"),
        (410.0, "ttft_ms_p95", "time to first token, p95, ms"),
    ] {
        let values: Vec<(f64, f64)> = rows
            .iter()
            .filter_map(|row| Some((row["clients"].as_f64()?, row[key].as_f64()?)))
            .collect();
        let max_x = values.iter().fold(1.0, |max, value| f64::max(max, value.0));
        let max_y = values.iter().fold(1.0, |max, value| f64::max(max, value.1));
        let point = |(x, y): (f64, f64)| (left + x / max_x * 280.0, 220.0 - y / max_y * 170.0);
        let _ = write!(out, "<text x=\"{left}\" y=\"20\">{label}: {title}</text>");
        let _ = write!(
            out,
            "<path d=\"M{left} 50V220H{}\" stroke=\"#888\" fill=\"none\"/>",
            left + 280.0
        );
        let line: Vec<String> = values
            .iter()
            .map(|&value| point(value))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = write!(
            out,
            "<polyline points=\"{}\" stroke=\"#06c\" stroke-width=\"2\" fill=\"none\"/>",
            line.join(" ")
        );
        for value in values {
            let (x, y) = point(value);
            let _ = write!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#06c\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0}</text><text x=\"{x:.1}\" y=\"236\" text-anchor=\"middle\">{}</text>",
                y - 8.0,
                value.1,
                value.0
            );
        }
    }
    out.push_str("</svg>\n");
    out
}
