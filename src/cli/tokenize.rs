//! `kolosal tokenize`: text from standard input to token ids.

use std::io::Read;

use super::App;
use super::args::TokenizeArgs;
use super::compute::locate_here;
use super::failure::{Context, Outcome};
use crate::chat::{Special, Tokenizer};
use crate::model::{self, gguf::Access};

pub(super) fn run(app: &App, args: &TokenizeArgs) -> Outcome {
    let path = locate_here(app, &args.model)?;
    let gguf = model::open(&path, Access::OnDemand).context(path.display())?;
    let tokenizer = Tokenizer::from_gguf(gguf.metadata()).context(path.display())?;
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("standard input")?;
    let special = if args.parse_special { Special::Parse } else { Special::Plain };
    let ids = tokenizer.encode(&text, special);
    let ids = if args.no_bos { ids } else { tokenizer.frame(ids) };
    if app.out.json {
        return app.out.json(&ids);
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    app.out.line(ids.join(" "))
}
