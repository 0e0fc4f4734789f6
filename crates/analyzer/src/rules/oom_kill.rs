use std::collections::BTreeMap;

use mtrace_formats::tables::SampleSource;

use super::common::{Doubt, not_checked, percent, place, probe_ran};
use super::{Outcome, common, rule};
use crate::context::Joined;
use crate::model::{
    CodeLocation, Confidence, Evidence, FaultGroup, Finding, Fix, LookAlike, NamedStack, OomVictim, TouchKind,
};
use crate::units;

/// Code of the rule; the verdict puts it before everything else.
pub(crate) const CODE: &str = "oom-kill";
const CAUSE: &str = "the OOM killer ended a process of the capture";

/// Part of the group's usage below which the victim is not what filled it.
const MAIN_SHARE: f64 = 0.5;
/// Places shown.
const MAX_PLACES: usize = 4;

rule! {
    /// **OOM kill.** A memory cgroup was at its limit, or the host out of memory, and nothing more could be freed: the
    /// kernel chose this process and killed it. How slow it was before does not matter; what matters is the limit and
    /// what held the memory.
    ///
    /// *Found when* the kernel names a process of the capture as its victim (`oom:mark_victim`). The finding says whose
    /// memory was exhausted, what the victim held by kind (anonymous, files, shared memory, swap), how its resident
    /// memory grew, and which code first touched its anonymous memory. That is growth; whether it is a leak only the
    /// program's own profile can say. What was touched before the recording began has no name here.
    ///
    /// *Looks like*: a SIGKILL from somebody else (a liveness probe, an operator: there the kernel chose nobody), a
    /// crash on a refused mapping (there a call fails and nobody is killed).
    ///
    /// *What to do*: raise the limit above what the process needs at its peak, or make it keep less. Where the victim
    /// held only a small part of the group's memory, look at what else is charged to the group: other processes, files
    /// in a tmpfs, kernel memory.
    pub struct OomKill(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    if !probe_ran(joined, "oom_kills") {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the probe `oom_kills` did not run"));
    }
    let victims = &joined.facts.oom_victims;
    let found: Vec<Finding> = victims.iter().filter(|v| v.target).map(|v| finding(joined, v)).collect();
    if !found.is_empty() {
        return Outcome::Found(found);
    }
    let why = match victims.as_slice() {
        [] => "the kernel chose no victim on this host during the capture".to_owned(),
        others => {
            let names: Vec<String> = others.iter().take(MAX_PLACES).map(name).collect();
            format!(
                "{} on this host, but no process of the capture: {}",
                units::counted(others.len() as u64, "process was chosen", "processes were chosen"),
                names.join(", ")
            )
        }
    };
    Outcome::RuledOut(common::ruled_out(joined, CODE, CAUSE, why, &["oom_kills"]))
}

fn finding(joined: &Joined, v: &OomVictim) -> Finding {
    let touched = touched(joined, v.pid);
    let main = touched.first().map(|(g, _)| *g);
    let location = main.and_then(|g| g.toucher.clone());
    let (confidence, confidence_reasons) = doubt(joined, v).finish();
    let mut claim = format!("process {} was killed by the OOM killer: {}", name(v), whose(v));
    if !parts(v).is_empty() {
        claim.push_str(&format!(", and the process held {}", parts(v).join(", ")));
    }
    if let Some((_, bytes)) = touched.first().filter(|_| location.is_some()) {
        claim.push_str(&format!(
            "; {} of the memory that was touched during the capture {} touched",
            units::bytes(*bytes),
            place(location.as_ref())
        ));
    }
    if v.by_pid != v.pid {
        claim.push_str(&format!("; the memory was wanted by process {} (`{}`)", v.by_pid, plain(&v.by_comm)));
    }
    Finding {
        code: CODE.to_owned(),
        title: "OOM kill".to_owned(),
        claim,
        pid: v.pid,
        cost: None,
        confidence,
        confidence_reasons,
        location,
        evidence: evidence(joined, v, &touched),
        against: Vec::new(),
        look_alikes: vec![LookAlike {
            cause: "somebody else's SIGKILL (a liveness probe, an operator)".to_owned(),
            observation: "the kernel named the process as the OOM killer's victim".to_owned(),
            excluded: true,
        }],
        stacks: stacks(v, main),
        fix: fix(v, main),
    }
}

fn doubt(joined: &Joined, v: &OomVictim) -> Doubt {
    let mut doubt = Doubt::new();
    doubt.accounting(joined, "oom_kills");
    if v.scope.is_none() {
        doubt.at_most(Confidence::Medium, "whether a cgroup or the host was out of memory is not known");
    }
    if v.anon_bytes.is_none() {
        doubt.at_most(Confidence::Medium, "this kernel does not tell what the victim held");
    }
    doubt
}

fn name(v: &OomVictim) -> String {
    match &v.comm {
        Some(comm) => format!("{} (`{}`)", v.pid, plain(comm)),
        None => v.pid.to_string(),
    }
}

fn plain(comm: &str) -> String {
    comm.replace('`', "'")
}

/// Whose memory was exhausted.
fn whose(v: &OomVictim) -> String {
    let group = v.cgroup.as_deref().map(plain).unwrap_or_default();
    match (v.scope.as_deref(), v.limit_bytes, v.usage_bytes) {
        (Some("memcg"), Some(limit), Some(usage)) => {
            format!("its memory cgroup `{group}` was full ({} of {})", units::bytes(usage), units::bytes(limit))
        }
        (Some("memcg"), ..) => "its memory cgroup was full".to_owned(),
        (Some("global"), ..) => "the host was out of memory".to_owned(),
        (_, Some(limit), Some(usage)) => format!(
            "the host or a cgroup was out of memory (`{group}` used {} of {})",
            units::bytes(usage),
            units::bytes(limit)
        ),
        _ => "the host or its cgroup was out of memory".to_owned(),
    }
}

/// What it held by kind, most first, without crumbs.
fn parts(v: &OomVictim) -> Vec<String> {
    let all = [
        ("of anonymous memory", v.anon_bytes),
        ("of files", v.file_bytes),
        ("of shared memory", v.shmem_bytes),
        ("in swap", v.swap_bytes),
        ("of page tables", v.page_table_bytes),
    ];
    let mut known: Vec<(&str, u64)> = all.into_iter().filter_map(|(what, n)| Some((what, n?))).collect();
    known.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let sum: u64 = known.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n));
    known.into_iter().filter(|(_, n)| *n > sum / 50).map(|(what, n)| format!("{} {what}", units::bytes(n))).collect()
}

/// Memory of the victim that is charged to its own group, whatever else happens; null if the kernel does not tell it.
/// Pages of files are charged to whoever read them first.
fn held(v: &OomVictim) -> Option<u64> {
    let rest = [v.shmem_bytes, v.page_table_bytes].into_iter().flatten();
    Some(rest.fold(v.anon_bytes?, u64::saturating_add))
}

/// Anonymous memory that was first touched during the capture, by code, most first; the group is the largest of its code.
fn touched(joined: &Joined, pid: u32) -> Vec<(&FaultGroup, u64)> {
    let mut by: BTreeMap<Option<&str>, (&FaultGroup, u64)> = BTreeMap::new();
    let first = joined.facts.faults.groups.iter().filter(|g| g.pid == pid && g.kind == TouchKind::AnonFirstTouch);
    for g in first {
        let bytes = g.pages.saturating_mul(common::page_bytes(joined));
        let sum = by.entry(g.toucher.as_ref().map(|l| l.function.as_str())).or_insert((g, 0));
        if g.pages > sum.0.pages {
            sum.0 = g;
        }
        sum.1 = sum.1.saturating_add(bytes);
    }
    let mut out: Vec<_> = by.into_values().collect();
    out.sort_by_key(|(g, bytes)| (std::cmp::Reverse(*bytes), g.first_ns));
    out
}

fn evidence(joined: &Joined, v: &OomVictim, touched: &[(&FaultGroup, u64)]) -> Vec<Evidence> {
    let query = format!("SELECT * FROM 'CAPTURE/oom_kills/*.parquet' WHERE pid = {}", v.pid);
    let mut out =
        vec![Evidence { what: "whose memory was exhausted".to_owned(), value: whose(v), query: Some(query.clone()) }];
    if let Some(held) = held(v) {
        let of_usage = v.usage_bytes.filter(|u| *u > 0 && v.scope.as_deref() == Some("memcg"));
        let share = of_usage.map_or_else(String::new, |u| {
            format!("; without files {} of the group's usage", percent((held as f64 / u as f64).min(1.0)))
        });
        out.push(Evidence {
            what: "what the victim held".to_owned(),
            value: format!("{}{share}", parts(v).join(", ")),
            query: Some(query),
        });
    }
    out.extend(growth(joined, v));
    for (g, bytes) in touched.iter().take(MAX_PLACES) {
        out.push(Evidence {
            what: "anonymous memory first touched during the capture".to_owned(),
            value: format!(
                "{} by {}, mapped by {}",
                units::bytes(*bytes),
                place(g.toucher.as_ref()),
                place(g.mapper.as_ref())
            ),
            query: None,
        });
    }
    out
}

/// Resident memory over the capture, from the samples before the kill.
fn growth(joined: &Joined, v: &OomVictim) -> Option<Evidence> {
    let resident = |s: &&mtrace_formats::tables::Sample| {
        s.source == SampleSource::Statm && s.pid == Some(v.pid) && s.key == "resident_bytes" && s.ts <= v.ts_ns
    };
    let mut samples = joined.samples.iter().filter(resident).filter_map(|s| Some((s.ts, s.value?)));
    let first = samples.next()?;
    // The kill itself is the last sample.
    let at_kill = v.anon_bytes.map(|n| n + v.file_bytes.unwrap_or(0) + v.shmem_bytes.unwrap_or(0));
    let last = at_kill.map(|n| (v.ts_ns, n)).or_else(|| samples.next_back())?;
    let took = last.0 - first.0;
    if took <= 0 {
        return None;
    }
    let grown = last.1.saturating_sub(first.1);
    let rate = (grown as f64 / (took as f64 / 1e9)) as u64;
    Some(Evidence {
        what: "resident memory from the first sample to the kill".to_owned(),
        value: format!(
            "grew from {} to {} in {}: {} a second",
            units::bytes(first.1),
            units::bytes(last.1),
            units::duration(took),
            units::bytes(rate)
        ),
        query: Some(format!(
            "SELECT ts, value FROM 'CAPTURE/samples/*.parquet' WHERE pid = {} AND key = 'resident_bytes' ORDER BY ts",
            v.pid
        )),
    })
}

fn stacks(v: &OomVictim, main: Option<&FaultGroup>) -> Vec<NamedStack> {
    let mut out = Vec::new();
    if let Some(g) = main {
        let weight = format!("{} pages", units::count(g.pages));
        out.push(NamedStack { title: "touched most of it".to_owned(), weight, frames: g.touch_stack.clone() });
    }
    if !v.by_stack.is_empty() {
        let weight = format!("thread `{}`", plain(&v.by_comm));
        out.push(NamedStack {
            title: "wanted the page that was one too many".to_owned(),
            weight,
            frames: v.by_stack.clone(),
        });
    }
    out
}

fn fix(v: &OomVictim, main: Option<&FaultGroup>) -> Fix {
    let toucher: Option<&CodeLocation> = main.and_then(|g| g.toucher.as_ref());
    let small = v.scope.as_deref() == Some("memcg")
        && held(v).zip(v.usage_bytes).is_some_and(|(held, usage)| (held as f64) < MAIN_SHARE * usage as f64);
    let what = if small {
        "look at what else is charged to the group than the victim: other processes, files in a tmpfs (`shmem` in \
         memory.stat), kernel memory; then raise the limit or remove that"
            .to_owned()
    } else if v.shmem_bytes > v.anon_bytes {
        "keep less in shared memory and tmpfs (sizeLimit), or raise the limit".to_owned()
    } else {
        let limit = if v.scope.as_deref() == Some("global") { "give the host more memory" } else { "raise the limit" };
        match toucher {
            Some(_) => {
                format!("{limit} above what the process needs at its peak, or keep less: look at {}", place(toucher))
            }
            None => format!("{limit} above what the process needs at its peak, or make it keep less"),
        }
    };
    Fix {
        what,
        gain_low_ns: None,
        gain_high_ns: None,
        caution: Some(
            "where the growth has no end a higher limit only comes later: record again, or take a heap profile, before the kill"
                .to_owned(),
        ),
    }
}
