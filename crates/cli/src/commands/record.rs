//! `mtrace record`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mtrace_formats::capture::ProbeStatus;
use mtrace_recorder::{Error, ErrorKind, FaultMode, Options, Summary, TargetSpec};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::args::{FaultsArg, RecordArgs};
use crate::exit::{Code, Failure};
use crate::progress::Progress;
use crate::text;

pub(crate) fn run(args: RecordArgs) -> Result<Code, Failure> {
    let options = options(args)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Failure::new(Code::Host, format!("failed to handle signal {signal}: {e}")))?;
    }
    let progress = Progress::new();
    let summary = mtrace_recorder::record(&options, &stop, &mut |p| {
        let rows: u64 = p.rows.values().sum();
        progress.say(&format!(
            "recording {} process{}: {rows} rows, {} lost, {} KiB",
            p.targets,
            if p.targets == 1 { "" } else { "es" },
            p.lost,
            p.bytes / 1024,
        ));
    })
    .map_err(failure)?;
    drop(progress);
    report(&summary);
    let lost: u64 = summary.accounts.iter().flat_map(|a| a.lost.values()).sum();
    Ok(if lost > 0 || matches!(summary.end_reason.as_str(), "disk full" | "write failed") {
        Code::Partial
    } else {
        Code::Success
    })
}

fn options(args: RecordArgs) -> Result<Options, Failure> {
    let target = match (args.pid, args.comm, args.command) {
        (Some(pid), ..) => TargetSpec::Pid(pid),
        (_, Some(comm), _) => TargetSpec::Comm(comm),
        (_, _, argv) if !argv.is_empty() => TargetSpec::Launch { argv },
        _ => {
            return Err(Failure::new(
                Code::Usage,
                "nothing to record; give a command after `--`, or --pid PID, or --comm NAME",
            ));
        }
    };
    let mut options = Options::new(target, args.output);
    options.duration = args.duration;
    options.ring_bytes = args.ring;
    options.sample_interval = args.sample_interval;
    options.segment_interval = args.segment_interval;
    options.faults = match args.faults {
        FaultsArg::Runs => FaultMode::Runs,
        FaultsArg::Every => FaultMode::Every,
        FaultsArg::Off => FaultMode::Off,
    };
    options.slow_fault = args.slow_fault;
    options.fault_weight = args.sample_faults;
    options.budget = args.budget;
    options.off_cpu_min = args.off_cpu_min;
    options.io_calls_per_process = args.io_calls;
    options.without = args.without;
    options.leave_running = args.leave_running;
    options.with_hostname = args.with_hostname;
    Ok(options)
}

fn failure(e: Error) -> Failure {
    let code = match (&e, e.kind()) {
        (Error::NoSuchProbe { .. }, _) => Code::Usage,
        (_, ErrorKind::NoSuchTarget | ErrorKind::CannotExecute) => Code::Target,
        (_, ErrorKind::NotPermitted | ErrorKind::NoBtf | ErrorKind::Kernel) => Code::Host,
        (_, ErrorKind::Output) => Code::Input,
    };
    Failure::new(code, e)
}

/// What was recorded, in a few lines, so that trouble shows at once and not on the laptop.
fn report(summary: &Summary) {
    for problem in &summary.problems {
        text::note(&problem.what);
    }
    for probe in summary.probes.iter().filter(|p| p.status != ProbeStatus::NotApplicable) {
        if let Some(reason) = &probe.reason {
            text::note(&format!("probe {}: {reason}", probe.name));
        }
    }
    for account in &summary.accounts {
        for (reason, count) in &account.lost {
            text::note(&format!("{}: {count} of {} events lost: {reason}", account.probe, account.seen));
        }
    }
    match summary.exit_status {
        Some(status) if status & 0x7f != 0 => {
            text::note(&format!("the target was killed by signal {}", status & 0x7f));
        }
        Some(status) if status != 0 => text::note(&format!("the target exited with status {}", status >> 8 & 0xff)),
        _ => {}
    }
    let events: u64 = summary.accounts.iter().map(|a| a.written).sum();
    text::note(&format!(
        "recorded {events} events in {:.1} s ({}) into {}, {} KiB; next: mtrace analyze {}",
        summary.recorded.as_secs_f64(),
        summary.end_reason,
        summary.output.display(),
        summary.bytes / 1024,
        summary.output.display(),
    ));
}
