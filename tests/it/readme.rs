//! Tables of what is supported, in the README and in docs/architectures.md, made from the code.

use std::fmt::Write as _;
use std::path::Path;

use kolosal_kernels::linear::Packed;
use kolosal_kernels::quant::{self, GgmlType};
use kolosal_server::model::arch;
use kolosal_server::model::load::DEVICES;

/// The tables are committed. `KOLOSAL_TEST_UPDATE=1 cargo test --test it readme` writes them anew.
#[test]
fn the_tables_of_what_is_supported_are_up_to_date() {
    const MODELS: &str = "docs/architectures.md";
    let tables = [
        (MODELS, "architectures", architectures()),
        (MODELS, "types", types()),
        ("README.md", "devices", devices()),
    ];
    for (file, name, table) in tables {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let document = std::fs::read_to_string(&path).unwrap();
        let begin = format!("<!-- {name}: begin -->\n");
        let (before, rest) = document.split_once(&begin).unwrap();
        let (committed, after) = rest.split_once("<!-- ").unwrap();
        if std::env::var_os("KOLOSAL_TEST_UPDATE").is_none() {
            let hint = "run: KOLOSAL_TEST_UPDATE=1 cargo test --test it readme";
            assert_eq!(committed, table, "{name}; {hint}");
        }
        if std::env::var_os("KOLOSAL_TEST_UPDATE").is_some() {
            std::fs::write(&path, format!("{before}{begin}{table}<!-- {after}")).unwrap();
        }
    }
}

fn architectures() -> String {
    let mut table =
        "\n| `general.architecture` | models | logits compared with |\n|---|---|---|\n".to_owned();
    let ours = arch::all().map(|known| (known.name, known.models));
    for (name, models) in ours {
        let proof = arch::proof(name).unwrap().in_words();
        let _infallible = writeln!(table, "| `{name}` | {models} | {proof} |");
    }
    table.push('\n');
    table
}

fn types() -> String {
    let with = |holds: &dyn Fn(GgmlType) -> bool| {
        let names = GgmlType::all().filter(|ty| holds(*ty)).map(|ty| format!("`{}`", ty.name()));
        names.collect::<Vec<_>>().join(", ")
    };
    let converted = |ty| quant::exact_form(ty).is_some();
    let native = with(&|ty| Packed::takes(ty));
    let exact = with(&converted);
    let read = with(&|ty| !Packed::takes(ty) && !converted(ty));
    format!(
        "\n| weights of type | are |\n|---|---|\n\
         | {native} | multiplied as they are |\n\
         | {exact} | put exactly into a larger type when they are loaded |\n\
         | {read} | read, but not as matrices |\n\n"
    )
}

fn devices() -> String {
    let mut table = "\n| device | feature | computes with |\n|---|---|---|\n".to_owned();
    for device in DEVICES {
        let _infallible =
            writeln!(table, "| `{}` | {} | {} |", device.name, device.feature, device.computes);
    }
    table.push('\n');
    table
}
