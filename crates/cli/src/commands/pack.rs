//! `mtrace pack`.

use std::path::PathBuf;

use mtrace_formats::capture::{Capture, pack};

use crate::args::PackArgs;
use crate::exit::{Code, Failure};
use crate::text;

pub(crate) fn run(args: &PackArgs) -> Result<Code, Failure> {
    let capture = Capture::open(&args.capture)?;
    for problem in &capture.problems {
        text::note(problem);
    }
    let out = args.output.clone().unwrap_or_else(|| {
        let mut name = PathBuf::from(args.capture.components().as_path()).into_os_string();
        name.push(".tar");
        PathBuf::from(name)
    });
    pack(&capture, &out)?;
    text::out(&text::clean(&out.display().to_string()))?;
    Ok(if capture.problems.is_empty() { Code::Success } else { Code::Partial })
}
