//! The loader of GGUF files, from a reference to an answer.

use kolosal_server::chat::generation::{GenerationRequest, PromptInput, generate};
use kolosal_server::model::DeviceChoice;
use kolosal_server::model::gguf::Writer;
use kolosal_server::registry::{GgufLoader, NativeBackend};

use super::*;
use crate::tiny::Tiny;

/// References are names of files in `folder`.
fn loader(folder: &Path) -> GgufLoader {
    let folder = folder.to_owned();
    let locate = move |name: String| -> BoxFuture<'static, Result<PathBuf>> {
        Box::pin(std::future::ready(Ok(folder.join(name))))
    };
    let backend =
        NativeBackend { threads: 1, device: DeviceChoice::Cpu, ..NativeBackend::default() };
    GgufLoader::new(Box::new(locate), Box::new(backend), EngineConfig::default())
}

#[tokio::test]
async fn a_file_becomes_an_engine() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::default();
    std::fs::write(folder.path().join("tiny.gguf"), tiny.bytes()).unwrap();
    let loader = Arc::new(loader(folder.path()));
    for use_mmap in [true, false] {
        let params = LoadParams {
            use_mmap,
            warmup: true,
            n_parallel: 40,
            n_ubatch: 8,
            n_ctx: 4096,
            ..LoadParams::default()
        };
        let spec = EngineSpec { params, ..EngineSpec::new("tiny", "tiny.gguf") };
        let estimate = loader.estimate(&spec, &folder.path().join("tiny.gguf")).unwrap();
        let file_bytes = tiny.bytes().len() as u64;
        assert!(estimate > file_bytes, "{estimate}");
        let config =
            RegistryConfig { memory_budget_bytes: Some(estimate), ..config(&Clock::manual()) };
        let registry = Registry::new(Arc::clone(&loader) as _, config);
        let status = registry.add(spec, true).await.unwrap();
        assert_eq!(status.memory_bytes, estimate);
        let info = status.info.unwrap();
        assert_eq!((info.architecture.as_str(), info.quantization.as_str()), ("llama", "F32"));
        assert_eq!((info.name.as_deref(), info.file_bytes), (Some("tiny"), file_bytes));
        assert_eq!((info.context_len, info.trained_context_len), (512, Some(512)));
        assert_eq!(info.path, folder.path().join("tiny.gguf"));
        assert!(!info.chat_template && info.parameters > 10_000);
        assert!(info.warnings[0].contains("n_ctx 4096 was reduced to 512"), "{info:?}");
        let lease = registry.get("tiny").await.unwrap();
        assert_eq!(lease.engine.config().max_running, 40);
        let request = GenerationRequest {
            max_tokens: Some(5),
            ignore_eos: true,
            ..GenerationRequest::new(PromptInput::Text("hello".to_owned()))
        };
        let generation = generate(&lease.text, &lease.engine, request).await.unwrap();
        assert_eq!(generation.collect().await.unwrap().tally.usage.completion_tokens, 5);
        drop(lease);
        registry.shutdown().await;
    }
}

#[test]
fn an_unknown_architecture_is_named_beside_the_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mamba.gguf");
    Writer::new().set("general.architecture", "mamba").write(&path).unwrap();
    let spec = EngineSpec::new("x", "mamba.gguf");
    let error = loader(folder.path()).estimate(&spec, &path).unwrap_err();
    assert_eq!((error.kind, error.kind.status()), (Kind::ModelLoading, 422));
    let beginning = "architecture 'mamba' is not supported; supported: llama, llama4, ";
    assert!(error.message.starts_with(beginning), "{error}");
}

#[test]
fn what_is_no_model_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text.gguf"), "once upon a time, there was no model")
        .unwrap();
    std::fs::write(folder.path().join("cut.gguf"), &Tiny::default().bytes()[..5000]).unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let loader = loader(folder.path());
    let cases = [
        ("absent.gguf", "model_file_not_found"),
        ("folder", "invalid_model_path_type"),
        ("text.gguf", "invalid_model_format"),
        ("cut.gguf", "model_loading_failed"),
    ];
    for (reference, code) in cases {
        let spec = EngineSpec::new("x", reference);
        let path = folder.path().join(reference);
        let loaded = loader.load(&spec, &path, &CancellationToken::new());
        for error in [loader.estimate(&spec, &path).unwrap_err(), loaded.err().unwrap()] {
            assert_eq!((error.kind, error.code), (Kind::ModelLoading, Some(code)), "{error}");
            assert_eq!(error.param.as_deref(), Some("model_path"), "{error}");
            assert!(error.message.contains(reference), "{error}");
        }
    }
}
