//! The `kolosal` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    kolosal_server::cli::main()
}
