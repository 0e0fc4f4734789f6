//! One file per command.

#[cfg(feature = "analyze")]
mod analyze;
#[cfg(all(feature = "record", target_os = "linux"))]
mod doctor;
mod generate;
mod pack;
#[cfg(all(feature = "record", target_os = "linux"))]
mod record;

use crate::args::{Args, Command};
use crate::exit::{Code, Failure};
use crate::text;

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<Code, Failure> {
    match args.command {
        #[cfg(all(feature = "record", target_os = "linux"))]
        Command::Record(args) => record::run(*args),
        #[cfg(feature = "analyze")]
        Command::Analyze(args) => analyze::run(&args),
        Command::Pack(args) => pack::run(&args),
        #[cfg(all(feature = "record", target_os = "linux"))]
        Command::Doctor => doctor::run(),
        Command::Schema => {
            text::out(mtrace_formats::schema_markdown().trim_end())?;
            Ok(Code::Success)
        }
        #[cfg(feature = "analyze")]
        Command::Rules => {
            text::out(mtrace_analyzer::rules::reference_markdown().trim_end())?;
            Ok(Code::Success)
        }
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(&dir),
    }
}
