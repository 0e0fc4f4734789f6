//! The `mtrace` command: parse, then call.

mod args;
mod commands;
mod exit;
mod progress;
mod text;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(code) => code.into(),
        Err(failure) => {
            text::error(&failure);
            failure.code.into()
        }
    }
}
