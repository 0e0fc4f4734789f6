//! `mtrace analyze`.

use std::fs;

use mtrace_analyzer::context::JoinOptions;
use mtrace_analyzer::report::{ReportOptions, render_json, terminal, write};
use mtrace_formats::capture::Capture;

use crate::args::AnalyzeArgs;
use crate::exit::{Code, Failure};
use crate::progress::Progress;
use crate::text;

pub(crate) fn run(args: &AnalyzeArgs) -> Result<Code, Failure> {
    // The output is tried first: nobody wants to wait for an analysis that cannot be written.
    let is_new = !args.output.exists();
    fs::create_dir_all(&args.output)
        .map_err(|e| mtrace_formats::Error::io("create the report directory", &args.output, e))?;
    let result = report(args);
    if result.is_err() && is_new {
        // Empty, or it stays: there is nothing to do about that.
        let _ = fs::remove_dir(&args.output);
    }
    result
}

fn report(args: &AnalyzeArgs) -> Result<Code, Failure> {
    quiet_decoder_panics();
    let progress = Progress::new();
    progress.say("reading the capture");
    let capture = Capture::open(&args.capture)?;
    let analysis = mtrace_analyzer::analyze(&capture, &JoinOptions { pid: args.pid }, &mut |step| progress.say(step));
    if let Some(pid) = args.pid.filter(|pid| !analysis.facts.capture.processes.iter().any(|p| p.pid == *pid)) {
        let known: Vec<String> = analysis.facts.capture.processes.iter().map(|p| p.pid.to_string()).collect();
        return Err(Failure::new(
            Code::Input,
            format!("process {pid} is not in the capture; there are: {}", known.join(", ")),
        ));
    }
    progress.say("writing the report");
    let files = write(&analysis, &args.output, &ReportOptions::default()).map_err(|e| Failure::new(Code::Input, e))?;
    drop(progress);
    if args.json {
        text::out(&render_json(&analysis).map_err(|e| Failure::new(Code::Input, e))?)?;
    } else {
        use std::io::IsTerminal as _;
        text::out(terminal(&analysis, std::io::stdout().is_terminal()).trim_end())?;
        if let Some(page) = files.first() {
            text::out(&format!("\nreport: {}", text::clean(&page.display().to_string())))?;
        }
    }
    let whole = analysis.facts.trust.damage.is_empty() && analysis.facts.trust.losses.is_empty();
    Ok(if whole { Code::Success } else { Code::Partial })
}

/// The Parquet decoder panics on some damaged segments. The reader catches that and names the segment; the panic's own
/// message would only frighten.
fn quiet_decoder_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let of_decoder = |file: &str| ["/parquet-", "/arrow-"].iter().any(|name| file.contains(name));
        if !info.location().is_some_and(|l| of_decoder(l.file())) {
            usual(info);
        }
    }));
}
