//! `mtrace record`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mtrace_formats::capture::ProbeStatus;
use mtrace_recorder::{Dumped, Error, ErrorKind, FaultMode, FlightOptions, Options, Summary, TargetSpec};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::args::{FaultsArg, RecordArgs};
use crate::exit::{Code, Failure};
use crate::progress::Progress;
use crate::text;

pub(crate) fn run(args: RecordArgs) -> Result<Code, Failure> {
    let options = options(args)?;
    if let Some(flight) = &options.flight {
        signal_hook::flag::register(SIGUSR1, Arc::clone(&flight.ask))
            .map_err(|e| Failure::new(Code::Host, format!("failed to handle SIGUSR1: {e}")))?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Failure::new(Code::Host, format!("failed to handle signal {signal}: {e}")))?;
    }
    let progress = Progress::new();
    let mut told = 0;
    let summary = mtrace_recorder::record(&options, &stop, &mut |p| {
        p.dumps.iter().for_each(|d| progress.note(&dumped(d)));
        told += p.dumps.len();
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
    // Those of the end; the others were told of when they were written.
    summary.dumps.iter().skip(told).for_each(|d| text::note(&dumped(d)));
    report(&summary);
    let lost: u64 = summary.accounts.iter().flat_map(|a| a.lost.values()).sum();
    Ok(if lost > 0 || matches!(summary.end_reason.as_str(), "disk full" | "write failed") {
        Code::Partial
    } else {
        Code::Success
    })
}

fn options(args: RecordArgs) -> Result<Options, Failure> {
    // The command line takes one kind only.
    let target = if !args.pid.is_empty() {
        TargetSpec::Pids(args.pid)
    } else if let Some(comm) = args.comm {
        TargetSpec::Comm(comm)
    } else if let Some(exe) = args.exe {
        TargetSpec::Exe(exe)
    } else if !args.cgroup.is_empty() {
        TargetSpec::Cgroups(args.cgroup)
    } else if !args.container.is_empty() {
        TargetSpec::Containers(args.container)
    } else if args.all {
        TargetSpec::All
    } else if !args.command.is_empty() {
        TargetSpec::Launch { argv: args.command }
    } else {
        return Err(Failure::new(
            Code::Usage,
            "nothing to record; give a command after `--`, or one of --pid, --comm, --exe, --cgroup, --container, --all",
        ));
    };
    let mut options = Options::new(target, args.output);
    options.flight = args.ring.map(|window| {
        let defaults = FlightOptions::new(window);
        FlightOptions {
            size_bytes: args.ring_size,
            triggers: args.trigger,
            post: args.post,
            max_dumps: args.max_dumps,
            min_interval: args.dump_interval.unwrap_or(defaults.min_interval),
            dump_on_exit: args.dump_on_exit,
            ..defaults
        }
    });
    options.duration = args.duration;
    options.max_bytes = args.max_size;
    options.max_events = args.max_events;
    options.ring_bytes = args.buffer;
    options.sample_interval = args.sample_interval;
    options.smaps = args.smaps;
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
    let unlimited = options.flight.as_ref().map(|_| u64::MAX);
    options.io_calls_per_process = args.io_calls.or(unlimited).unwrap_or(options.io_calls_per_process);
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

fn dumped(d: &Dumped) -> String {
    let path = d.path.display();
    format!("trigger {}: {}; wrote {path}, {} KiB; next: mtrace analyze {path}", d.trigger, d.what, d.bytes / 1024)
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
    if summary.is_flight {
        text::note(&format!(
            "recorded {:.1} s ({}); dumps written: {}",
            summary.recorded.as_secs_f64(),
            summary.end_reason,
            summary.dumps.len()
        ));
        return;
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
