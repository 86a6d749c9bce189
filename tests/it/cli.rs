//! The command line as scripts rely on it: exit codes, streams, shapes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use kolosal_server::model::gguf::Writer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Serving, finish, kolosal, request, run};
use crate::tiny::Tiny;

const COMMANDS: [&str; 19] = [
    "serve",
    "run",
    "launch",
    "pull",
    "list",
    "show",
    "rm",
    "ps",
    "stop",
    "bench",
    "logits",
    "perplexity",
    "tokenize",
    "inspect",
    "openapi",
    "completions",
    "config",
    "doctor",
    "selftest",
];

/// A folder with a tiny model in it.
fn tiny() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("tiny.gguf");
    std::fs::write(&path, Tiny::default().bytes()).unwrap();
    (home, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_catalogue_is_listed() {
    let table = run(&["list", "--available"]);
    assert_eq!(table.code, 0, "{table:?}");
    let default = table.out.lines().find(|line| line.starts_with("smollm2:135m ")).unwrap();
    assert!(default.contains("98 MB, Apache-2.0"), "{default}");
    let listed: Value = serde_json::from_str(&run(&["list", "--available", "--json"]).out).unwrap();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len() + 1, table.out.lines().count());
    assert!(
        listed.iter().all(|entry| entry["about"].as_str().unwrap().contains("GB")
            || entry["name"] == "smollm2:135m")
    );
}

#[test]
fn every_command_explains_itself() {
    for command in COMMANDS {
        let run = run(&[command, "--help"]);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.out.contains(&format!("Usage: kolosal {command}")), "{run:?}");
        assert!(run.err.is_empty(), "{run:?}");
    }
    let help = run(&["--help"]);
    for command in COMMANDS {
        assert!(help.out.contains(command), "{command}");
    }
    assert_eq!(run(&["--version"]).out, format!("kolosal {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_2() {
    let cases: &[(&[&str], &str)] = &[
        (&["serve", "--port", "70000"], "70000"),
        (&["--port", "x"], "'x'"),
        (&["pul"], "'pull'"),
        (&["serve", "--idle-timout", "1"], "--idle-timeout"),
        (&["pull"], "<MODEL>"),
        (
            &["serve", "--n-parallel", "0"],
            "engine.n_parallel: 0 is outside 1..=256 (flag --n-parallel)",
        ),
        (&["serve", "--log-level", "loud"], "logging.level: loud"),
        (&["serve", "a=b c"], "b c"),
        (&["bench", "-m", "x", "--device", "abacus"], "abacus"),
    ];
    for (args, expected) in cases {
        let run = run(args);
        assert_eq!(run.code, 2, "{args:?}: {run:?}");
        assert!(run.err.contains(expected) && run.out.is_empty(), "{args:?}: {run:?}");
    }
}

#[test]
fn failures_are_1_and_an_absent_server_is_69() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["inspect", "nowhere.gguf"], 1, "nowhere.gguf"),
        (&["serve", "nowhere.gguf"], 1, "nowhere.gguf"),
        (&["ps", "--url", &url], 69, &url),
        (&["stop", "engine", "--url", &url], 69, &url),
    ];
    for (args, code, expected) in cases {
        let run = run(args);
        assert_eq!(run.code, *code, "{args:?}: {run:?}");
        assert!(run.err.starts_with("error: ") && run.err.contains(expected), "{args:?}: {run:?}");
    }
}

#[test]
fn configuration_has_layers() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("c.toml");
    std::fs::write(&file, "[server]\nport = 1111\nhost = \"::1\"\n").unwrap();
    let shown = |extra: &[&str]| {
        let mut command = kolosal(home.path());
        command.args(["config", "show", "--origin", "--json", "--config", text(&file)]).args(extra);
        finish(command.env("KOLOSAL_PORT", "2222"), "").json()
    };
    let config = shown(&[]);
    assert_eq!(config["server.port"], json!({"value": 2222, "source": "env KOLOSAL_PORT"}));
    assert_eq!(config["server.host"]["source"], json!(format!("file {}", text(&file))));
    assert_eq!(config["engine.n_ctx"]["source"], "default");
    assert_eq!(shown(&["--offline"])["hub.offline"]["source"], "flag --offline");

    let user = home.path().join("config/kolosal");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::write(user.join("config.toml"), "[server]\ndrain_timeout_s = 3\n").unwrap();
    assert_eq!(shown(&[])["server.drain_timeout_s"]["value"], 3);

    std::fs::write(&file, "[server]\nprot = 1\n").unwrap();
    let wrong = finish(kolosal(home.path()).args(["config", "show", "--config", text(&file)]), "");
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("did you mean server.port?"), "{wrong:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn processors_are_checked_before_anything_starts() {
    let cpus = kolosal_kernels::affinity::allowed().unwrap();
    let first = cpus[0].to_string();
    let home = tempfile::tempdir().unwrap();
    let shown = |list: &str| {
        let mut command = kolosal(home.path());
        command.args(["config", "show", "--json"]).env("KOLOSAL_ENGINE__CPU_AFFINITY", list);
        finish(&mut command, "")
    };
    assert_eq!(shown(&first).json()["engine.cpu_affinity"], first.as_str());
    for (list, expected) in [
        (
            "1023",
            "engine.cpu_affinity: processor 1023 is not among those that this process may use",
        ),
        ("all", "engine.cpu_affinity: \"all\" is no list of processors such as 0-3,8"),
        ("3-1", "engine.cpu_affinity: \"3-1\" is no list"),
    ] {
        let run = shown(list);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.err.contains(expected), "{run:?}");
        assert!(run.err.contains("env KOLOSAL_ENGINE__CPU_AFFINITY"), "{run:?}");
    }
    for command in ["serve", "bench"] {
        let run = run(&[command, "--cpu-affinity", "2000"]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.err.contains("no list of processors"), "{run:?}");
    }
}

/// Every key stands in the guide, under its section.
#[test]
fn the_guide_lists_every_key() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/configuration.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let config = run(&["config", "show", "--json"]).json();
    for key in config.as_object().unwrap().keys().filter(|key| *key != "models") {
        let (section, name) = key.split_once('.').unwrap();
        let section = guide.split(&format!("### `[{section}]`")).nth(1).unwrap_or_default();
        let section = section.split("\n### ").next().unwrap();
        assert!(section.contains(&format!("`{name}`")), "{key} is not in the guide");
    }
}

#[test]
fn the_api_document_is_the_committed_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let printed = run(&["openapi"]).out;
    assert!(printed == committed, "run: cargo run -- openapi > openapi/openapi.json");
}

#[test]
fn completions_are_printed_for_shells() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(run(&["completions", shell]).out.contains("perplexity"), "{shell}");
    }
}

#[test]
fn a_model_file_can_be_looked_into() {
    let (home, path) = tiny();
    let inspected =
        finish(kolosal(home.path()).args(["inspect", text(&path), "--json"]), "").json();
    assert_eq!(inspected["metadata"]["general.architecture"], "llama");
    assert!(inspected["tensors"].as_array().unwrap().len() > 10);
    assert_eq!((&inspected["supported"], &inspected["obstacle"]), (&json!(true), &json!(null)));
    assert_eq!(inspected["memory"]["context"], 512);
    // Two layers of two heads of 16 values, twice, in half floats.
    assert_eq!(inspected["memory"]["kv_bytes"], 512 * 2 * 2 * 16 * 2 * 2);
    assert!(inspected["types"]["F32"]["tensors"].as_u64().unwrap() > 10);
    let shown = finish(kolosal(home.path()).args(["show", text(&path), "--json"]), "").json();
    assert_eq!((&shown["layers"], &shown["supported"]), (&json!(2), &json!(true)));
    let plain = finish(kolosal(home.path()).args(["inspect", text(&path)]), "");
    assert!(plain.out.contains("token_embd.weight"), "{plain:?}");
    assert!(plain.out.contains("supported: yes"), "{plain:?}");
    let strange = home.path().join("strange.gguf");
    Writer::new().set("general.architecture", "mamba").write(&strange).unwrap();
    let plain = finish(kolosal(home.path()).args(["inspect", text(&strange)]), "");
    let reason = "supported: no: architecture 'mamba' is not supported; supported: llama, ";
    assert!(plain.out.contains(reason), "{plain:?}");
}

#[test]
fn text_becomes_token_ids() {
    let (home, path) = tiny();
    let tokenize = |args: &[&str], input: &str| {
        finish(kolosal(home.path()).args(["tokenize", "-m", text(&path)]).args(args), input)
    };
    let ids = tokenize(&["--no-bos"], "ab");
    let parsed: Vec<u32> = ids.out.trim_end().split(' ').map(|id| id.parse().unwrap()).collect();
    assert!(ids.code == 0 && ids.out.ends_with('\n') && !parsed.is_empty(), "{ids:?}");
    assert_eq!(tokenize(&["--no-bos", "--json"], "ab").json(), json!(parsed));
    assert_eq!(tokenize(&["--no-bos"], "").out, "\n");
}

#[test]
fn measurements_have_their_shapes() {
    let (home, path) = tiny();
    let run = |args: &[&str]| {
        finish(kolosal(home.path()).args(args).args(["-m", text(&path), "-t", "1"]), "")
    };
    let bench = run(&["bench", "-p", "40", "-n", "4", "-b", "1,3", "-r", "2", "--json"]);
    let lines: Vec<serde_json::Value> =
        bench.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> =
        lines.iter().map(|line| (line["test"].clone(), line["batch"].clone())).collect();
    let expected = [("pp40", 1), ("tg4@b1", 1), ("tg4@b3", 3)];
    assert_eq!(names, expected.map(|(test, batch)| (json!(test), json!(batch))), "{bench:?}");
    for line in &lines {
        assert!(line["tok_s"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!(line["tok_s_all"].as_array().unwrap().len(), 2, "{line}");
        for key in ["gb_s", "gop_s", "bandwidth_gb_s", "bandwidth_part"] {
            assert!(line[key].as_f64().unwrap() >= 0.0, "{key}: {line}");
        }
        // One thread starts nothing together.
        assert_eq!((&line["regions"], &line["dispatch_part"]), (&json!(0.0), &json!(0.0)));
    }

    let logits = run(&["logits", "--tokens", "1,2,3", "--top", "4", "--json"]).json();
    let logprobs: Vec<f64> =
        logits.as_array().unwrap().iter().map(|c| c["logprob"].as_f64().unwrap()).collect();
    assert!(logprobs.len() == 4 && logprobs.is_sorted_by(|a, b| a >= b), "{logits}");
    assert!(logprobs.iter().all(|p| *p < 0.0), "{logits}");
    assert_eq!(run(&["logits", "--tokens", "1,999999"]).code, 2);

    let file = home.path().join("text.txt");
    std::fs::write(&file, "The quick brown fox jumps over the lazy dog. ".repeat(8)).unwrap();
    let perplexity = run(&["perplexity", "-f", text(&file), "--n-ctx", "32", "--json"]).json();
    assert!(perplexity["perplexity"].as_f64().unwrap() > 1.0, "{perplexity}");
    let plain = run(&["perplexity", "-f", text(&file), "--n-ctx", "32", "-q"]);
    assert!(plain.out.starts_with("Final estimate: PPL = ") && plain.err.is_empty(), "{plain:?}");
}

#[test]
fn a_busy_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = run(&["serve", "--port", &port, "--no-default-model"]);
    assert_eq!(run.code, 1);
    assert!(run.err.contains(&format!("port {port} on 127.0.0.1 is in use")), "{run:?}");
}

#[test]
fn engines_of_a_running_server_can_be_managed() {
    let (home, path) = tiny();
    let model = format!("small={}", text(&path));
    let serving =
        Serving::start(home.path(), &[&model, text(&path), "--threads", "1", "--n-ctx", "128"]);
    let client =
        |args: &[&str]| finish(kolosal(home.path()).args(args).args(["--url", &serving.url]), "");
    let ids = |run: &crate::program::Run| -> Vec<String> {
        let engines = run.json()["engines"].as_array().unwrap().clone();
        engines.iter().map(|engine| engine["engine_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&client(&["ps", "--json"])), ["small", "tiny"]);
    let body =
        json!({"model": "small", "prompt": "ab", "max_tokens": 3, "temperature": 0, "seed": 1});
    let (status, answer) = request("POST", &format!("{}/v1/completions", serving.url), Some(&body));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(client(&["stop", "tiny"]).code, 0);
    assert_eq!(ids(&client(&["ps", "--json"])), ["small"]);
    let again = client(&["stop", "tiny"]);
    assert!(again.code == 1 && again.err.contains("tiny"), "{again:?}");
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_server_in_good_order() {
    let home = tempfile::tempdir().unwrap();
    let serving = Serving::start(home.path(), &["--no-default-model"]);
    let (status, health) = request("GET", &format!("{}/v1/health", serving.url), None);
    assert_eq!((status, &health["status"]), (200, &json!("healthy")), "{health}");
    assert_eq!(serving.terminate(), 0);
}

#[test]
fn an_api_key_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let serving = Serving::start(home.path(), &["--no-default-model", "--api-key", "k"]);
    let (status, _) = request("GET", &format!("{}/v1/models", serving.url), None);
    assert_eq!(status, 401);
    let ps = |key: &str| {
        finish(kolosal(home.path()).args(["ps", "--url", &serving.url, "--api-key", key]), "").code
    };
    assert_eq!((ps("k"), ps("wrong")), (0, 1));
}

#[test]
fn one_prompt_is_answered_without_a_server() {
    let (home, path) = tiny();
    let ask = |args: &[&str], input: &str| {
        let mut command = kolosal(home.path());
        command.args([
            "run",
            text(&path),
            "--max-tokens",
            "4",
            "--temperature",
            "0",
            "--seed",
            "1",
        ]);
        finish(command.args(args), input)
    };
    let answer = ask(&["--json", "ab"], "").json();
    assert!(answer["completion_tokens"].as_u64().unwrap() <= 4, "{answer}");
    assert_eq!(ask(&["--json"], "ab").json()["text"], answer["text"]);
    assert_eq!(ask(&[], "").code, 2);
}

#[test]
fn the_selftest_prints_a_table_and_runs_a_model() {
    let (home, model) = tiny();
    let run = finish(kolosal(home.path()).args(["selftest", text(&model)]), "");
    assert_eq!(run.code, 0, "{run:?}");
    for row in
        ["linear Q4_K", "linear MXFP4", "attention window", "rope neox", "layer norm", "gelu"]
    {
        assert!(run.out.lines().any(|line| line.starts_with(row)), "{row}: {run:?}");
    }
    assert!(run.out.contains("SCALAR") && run.out.contains("ok tiny on cpu"), "{run:?}");
    let json = finish(kolosal(home.path()).args(["selftest", "--json"]), "").json();
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.len() >= 40, "{json}");
    assert!(checks.iter().all(|check| check["ok"] == true), "{json}");
    assert_eq!(json["model"], serde_json::Value::Null);
    let wrong = finish(kolosal(home.path()).args(["selftest", "--device", "candle-cpu"]), "");
    assert_eq!(wrong.code, 2, "{wrong:?}");
}
