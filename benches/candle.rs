//! candle's own quantised models on the CPU, measured as `kolosal bench` measures ours.
//!
//!     cargo bench --bench candle -- MODEL.gguf [--prompt 512] [--generate 64] [--batch 1,4,8,16] [--threads 2]
//!
//! Prints a JSON line for each test: `test` and `tok_s` as `kolosal bench --json` names them.
//! Sequences of a batch have the same length, as candle's models want it.

use std::fs::File;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::{
    quantized_gemma3, quantized_llama, quantized_qwen2, quantized_qwen3,
};
use clap::Parser;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[derive(Parser)]
struct Args {
    model: PathBuf,
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    #[arg(long, default_value_t = 64)]
    generate: usize,
    #[arg(long, value_delimiter = ',', default_value = "1,4,8,16")]
    batch: Vec<usize>,
    /// Threads of candle's pool.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Tokens and the length before them to logits.
type Forward = Box<dyn FnMut(&Tensor, usize) -> candle_core::Result<Tensor>>;

fn load(args: &Args) -> Result<(Forward, usize)> {
    let mut file = File::open(&args.model)?;
    let content = Content::read(&mut file)?;
    let device = Device::Cpu;
    let architecture =
        content.metadata.get("general.architecture").ok_or("no architecture")?.to_string()?.clone();
    let vocab_size = content
        .tensor_infos
        .get("token_embd.weight")
        .and_then(|info| info.shape.dims().first().copied())
        .ok_or("no token_embd.weight")?;
    // The models share method names and no trait.
    macro_rules! forward {
        ($module:ident) => {{
            let mut model = $module::ModelWeights::from_gguf(content, &mut file, &device)?;
            Box::new(move |tokens: &Tensor, start| model.forward(tokens, start))
        }};
    }
    let forward: Forward = match architecture.as_str() {
        "llama" => forward!(quantized_llama),
        "gemma3" => forward!(quantized_gemma3),
        "qwen2" => forward!(quantized_qwen2),
        "qwen3" => forward!(quantized_qwen3),
        other => return Err(format!("no model for {other} here").into()),
    };
    Ok((forward, vocab_size))
}

/// `batch` rows of `length` arbitrary tokens.
fn tokens(batch: usize, length: usize, vocab_size: usize) -> candle_core::Result<Tensor> {
    let ids: Vec<u32> = (0..batch * length).map(|at| (at * 7919 % vocab_size) as u32).collect();
    Tensor::from_vec(ids, (batch, length), &Device::Cpu)
}

fn report(test: &str, tokens: usize, start: Instant) -> Result<()> {
    let tok_s = tokens as f64 / start.elapsed().as_secs_f64();
    let line = serde_json::json!({ "test": test, "tok_s": tok_s });
    std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes())?;
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    // candle sizes its pool by a variable, which only a new process can be given.
    if std::env::var("RAYON_NUM_THREADS").is_err() {
        let status = std::process::Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env("RAYON_NUM_THREADS", args.threads.to_string())
            .status()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    let (mut forward, vocab_size) = load(&args)?;
    black_box(forward(&tokens(1, 32, vocab_size)?, 0)?);
    let prompt = tokens(1, args.prompt, vocab_size)?;
    let start = Instant::now();
    black_box(forward(&prompt, 0)?);
    report(&format!("pp{}", args.prompt), args.prompt, start)?;
    for &batch in &args.batch {
        black_box(forward(&tokens(batch, 16, vocab_size)?, 0)?);
        let row = tokens(batch, 1, vocab_size)?;
        let start = Instant::now();
        for step in 0..args.generate {
            black_box(forward(&row, 16 + step)?);
        }
        report(&format!("tg{}@b{batch}", args.generate), args.generate * batch, start)?;
    }
    Ok(())
}
