//! How much CPU time the BPF programs take, measured now and then: measuring adds two clock readings to every run of
//! every BPF program on the host.

use mtrace_formats::capture::BpfCost;

use super::Loaded;
use crate::cost::{BpfMeasured, BpfStats};

/// When the first measurement begins: early, so that a short recording has one.
const FIRST_NS: i64 = 200_000_000;
/// How long a measurement is, at least, and how far apart they begin: 2 % of the time.
const WINDOW_NS: i64 = 100_000_000;
const INTERVAL_NS: i64 = 5_000_000_000;
/// 1 where somebody else measures all the time.
const SYSCTL: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Turns the kernel's statistics on and off.
#[derive(Debug)]
pub(super) struct BpfTime {
    began: i64,
    next: i64,
    open: Option<(BpfStats, i64)>,
    sampled: i64,
    /// Somebody else has them on.
    always: bool,
    refused: bool,
}

impl BpfTime {
    pub(super) fn new(now: i64) -> Self {
        let always = std::fs::read_to_string(SYSCTL).is_ok_and(|t| t.trim() == "1");
        Self { began: now, next: now + FIRST_NS, open: None, sampled: 0, always, refused: false }
    }

    /// Opens or closes a measurement if it is time.
    pub(super) fn tick(&mut self, now: i64) {
        if self.always || self.refused {
            return;
        }
        match &self.open {
            Some((_, since)) if now - since >= WINDOW_NS => self.close(now),
            None if now >= self.next => match BpfStats::enable() {
                Ok(on) => {
                    self.next = now + INTERVAL_NS;
                    self.open = Some((on, now));
                }
                // CAP_SYS_ADMIN is missing; it will not come.
                Err(_) => self.refused = true,
            },
            _ => {}
        }
    }

    /// Ends an open measurement.
    pub(super) fn close(&mut self, now: i64) {
        if let Some((on, since)) = self.open.take() {
            drop(on);
            self.sampled += now - since;
        }
    }

    /// Time measured so far.
    fn sampled(&self, now: i64) -> i64 {
        let open = self.open.as_ref().map_or(0, |(_, since)| now - since);
        if self.always { now - self.began } else { self.sampled + open }
    }

    /// What the programs took so far.
    pub(super) fn measured(&self, probes: &[Loaded], now: i64) -> BpfMeasured {
        let sampled = self.sampled(now);
        if sampled <= 0 {
            return BpfMeasured::default();
        }
        let programs: Vec<BpfCost> = probes.iter().flat_map(Loaded::costs).collect();
        let ns: u64 = programs.iter().map(|p| p.run_ns).sum();
        let whole = i128::from(ns) * i128::from(now - self.began) / i128::from(sampled);
        BpfMeasured {
            programs,
            sampled_ns: Some(sampled.unsigned_abs()),
            estimated_ns: Some(u64::try_from(whole).unwrap_or(u64::MAX)),
        }
    }

    /// Share of one CPU that the programs of all probes but one take; 0 while nothing was measured.
    pub(super) fn share_of_others(&self, probes: &[Loaded], but: &str, now: i64) -> f64 {
        let sampled = self.sampled(now);
        if sampled <= 0 {
            return 0.0;
        }
        let others = probes.iter().filter(|p| p.probe.name() != but);
        let ns: u64 = others.flat_map(Loaded::costs).map(|c| c.run_ns).sum();
        ns as f64 / sampled as f64
    }
}
