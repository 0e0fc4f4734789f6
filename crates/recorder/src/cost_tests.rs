#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::*;
use std::os::fd::AsFd as _;
use std::time::Instant;

#[test]
fn cpu_and_memory_are_accounted_from_the_start() {
    let mut meter = CostMeter::start();
    let begin = Instant::now();
    let mut x = 1u64;
    while begin.elapsed() < Duration::from_millis(60) {
        x = std::hint::black_box(x.wrapping_mul(3));
    }
    meter.recording_began();
    meter.recording_ended();
    let block = std::hint::black_box(vec![1u8; 64 << 20]);
    let cost = meter.report(Some(7), BpfMeasured::default());
    drop(block);
    // Half of it where other tests take the CPU away.
    assert!(cost.cpu_user_ns.unwrap() + cost.cpu_system_ns.unwrap() > 20_000_000, "{cost:?}");
    assert!(cost.rss_peak_bytes.unwrap() > 64 << 20, "{cost:?}");
    assert!(cost.rss_peak_recording_bytes.unwrap() > 0);
    assert!(cost.finish_ns.unwrap() > 0);
    assert!(cost.cpu_recording_ns.unwrap() < cost.cpu_user_ns.unwrap() + cost.cpu_system_ns.unwrap());
    assert_eq!(cost.ring_bytes, Some(7));
    assert!(cpu_share(&cost, begin.elapsed()).unwrap() > 0.0);
    assert_eq!(cpu_share(&cost, Duration::ZERO), None);
}

#[test]
fn finishing_is_not_measured_before_it_began() {
    let cost = CostMeter::start().report(None, BpfMeasured::default());
    assert_eq!((cost.finish_ns, cost.rss_peak_recording_bytes, cost.ring_bytes), (None, None, None));
}

/// `r0 = 0; exit` as a socket filter, the smallest program there is.
fn tiny_program() -> io::Result<OwnedFd> {
    let code: [u64; 2] = [0xb7, 0x95];
    let code: Vec<libbpf_sys::bpf_insn> =
        // SAFETY: an instruction is 8 bytes of plain data.
        code.iter().map(|word| unsafe { std::mem::transmute::<u64, libbpf_sys::bpf_insn>(*word) }).collect();
    // SAFETY: all pointers are valid for the call; the options may be null.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER,
            c"tiny".as_ptr(),
            c"GPL".as_ptr(),
            code.as_ptr(),
            code.len() as _,
            std::ptr::null_mut(),
        )
    };
    // SAFETY: the descriptor is new.
    if fd < 0 { Err(io::Error::from_raw_os_error(-fd)) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

#[test]
fn runs_of_a_program_are_counted_while_statistics_are_on() {
    let program = match tiny_program() {
        Ok(p) => p,
        Err(e) => {
            eprintln!("skipped: a BPF program cannot be loaded ({e})");
            return;
        }
    };
    assert_eq!(run_stats(program.as_fd()).unwrap(), RunStats { runs: 0, run_ns: 0, misses: 0 });
    assert_eq!(bpf_costs([("tiny".to_owned(), program.as_fd())]), [], "never ran: not measured");
    let stats = match BpfStats::enable() {
        Ok(s) => s,
        Err(e) => {
            eprintln!("skipped: BPF statistics are refused ({e})");
            return;
        }
    };
    // Attached to one end of a pair of sockets, it runs for each packet.
    let (a, b) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let fd = program.as_raw_fd();
    // SAFETY: the value is a descriptor of the stated size.
    let r = unsafe {
        libc::setsockopt(
            b.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            (&raw const fd).cast(),
            size_of_val(&fd) as u32,
        )
    };
    assert_eq!(r, 0, "{}", io::Error::last_os_error());
    for _ in 0..10 {
        let _ = a.send(b"x");
    }
    drop(stats);
    let costs = bpf_costs([("tiny".to_owned(), program.as_fd())]);
    assert_eq!((costs[0].program.as_str(), costs[0].runs), ("tiny", 10));
    assert!(costs[0].run_ns > 0);
}

#[test]
fn what_is_no_program_is_an_error() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(run_stats(file.as_fd()).is_err());
}
