//! Models in safetensors files: which files of a repository make up one.

use super::reference::check_path;

/// Weights in one file, and the list of several.
const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Without these nothing can be loaded.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// What else is read where it is there.
const WANTED: [&str; 6] = [
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    INDEX,
];

/// The files of the model in a repository's top folder, the first weights first; `None` if there is
/// no such model.
pub(super) fn choose(names: &[&str]) -> Option<Vec<String>> {
    let has = |name: &&str| names.contains(name);
    if !NEEDED.iter().all(has) {
        return None;
    }
    let mut files: Vec<String> = if has(&WHOLE) {
        vec![WHOLE.to_owned()]
    } else if has(&INDEX) {
        let is_shard = |name: &&&str| is_shard(name) && check_path(name).is_ok();
        names.iter().filter(is_shard).map(|name| (*name).to_owned()).collect()
    } else {
        return None;
    };
    files.sort();
    if files.is_empty() {
        return None;
    }
    let is_pooling = |name: &&&str| {
        let folder = name.strip_suffix("/config.json");
        folder.is_some_and(|folder| folder.ends_with("_Pooling")) && check_path(name).is_ok()
    };
    let rest = NEEDED.iter().chain(WANTED.iter().filter(|name| has(name)));
    let rest = rest.chain(names.iter().filter(is_pooling));
    files.extend(rest.map(|name| (*name).to_owned()));
    Some(files)
}

/// `model-00001-of-00003.safetensors`.
fn is_shard(name: &str) -> bool {
    let middle = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let numbers = middle.and_then(|middle| middle.split_once("-of-"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|(number, count)| digits(number) && digits(count))
}

/// Whether a file name ends in `.safetensors`.
pub(super) fn is_safetensors(name: &str) -> bool {
    std::path::Path::new(name)
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"))
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn a_directory_is_a_model_with_its_files() {
        let cases: [(&[&str], Option<&[&str]>); 4] = [
            (
                &[
                    "README.md",
                    "config.json",
                    "tokenizer.json",
                    "model.safetensors",
                    "1_Pooling/config.json",
                    "modules.json",
                    "onnx/model.onnx",
                ],
                Some(&[
                    "model.safetensors",
                    "config.json",
                    "tokenizer.json",
                    "modules.json",
                    "1_Pooling/config.json",
                ]),
            ),
            (
                &[
                    "config.json",
                    "tokenizer.json",
                    "model-00002-of-00002.safetensors",
                    "model-00001-of-00002.safetensors",
                    "model.safetensors.index.json",
                    "consolidated.safetensors",
                ],
                Some(&[
                    "model-00001-of-00002.safetensors",
                    "model-00002-of-00002.safetensors",
                    "config.json",
                    "tokenizer.json",
                    "model.safetensors.index.json",
                ]),
            ),
            (&["config.json", "model.safetensors"], None),
            (&["config.json", "tokenizer.json", "pytorch_model.bin"], None),
        ];
        for (names, expected) in cases {
            let found = choose(names);
            let found = found.as_ref().map(|files| files.iter().map(String::as_str).collect());
            assert_eq!(found, expected.map(<[&str]>::to_vec), "{names:?}");
        }
    }
}
