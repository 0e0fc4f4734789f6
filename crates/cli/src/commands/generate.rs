//! Shell completions and man pages, made from the command line's own definition.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;

use crate::args::Args;
use crate::exit::{Code, Failure};
use crate::text;

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Code, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "mtrace", &mut script);
    text::out(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Code::Success)
}

pub(crate) fn man(dir: &Path) -> Result<Code, Failure> {
    fs::create_dir_all(dir).map_err(|e| mtrace_formats::Error::io("create", dir, e))?;
    clap_mangen::generate_to(Args::command(), dir)
        .map_err(|e| mtrace_formats::Error::io("write man pages into", dir, e))?;
    text::out(&text::clean(&dir.display().to_string()))?;
    Ok(Code::Success)
}
