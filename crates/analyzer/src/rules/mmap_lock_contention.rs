use super::common::{Doubt, main_ledger, not_checked, percent, place, probe_ran, ruled_out};
use super::{Outcome, common, rule, stalls};
use crate::context::Joined;
use crate::model::{
    Confidence, Evidence, Finding, Fix, Ledger, LockHolder, LockWaitGroup, LookAlike, NamedStack, Stalls,
};
use crate::units;

const CODE: &str = "mmap-lock-contention";
const CAUSE: &str = "threads waited for the lock of their address space (mmap_lock)";

/// Part of the window below which it is not worth a finding.
const MIN_SHARE: f64 = 0.10;
/// A reader that the lock names so often is taken for the holder.
const MIN_NAMED: f64 = 0.8;
/// Fewer waits than this say nothing about how often.
const MIN_WAITS: u64 = 5;

rule! {
    /// **mmap_lock contention.** All threads of a process share one lock on the map of their memory. mmap, munmap,
    /// mprotect, brk and fork take it alone; page faults (on kernels before 6.4, and still in some cases) and readers of
    /// `/proc/PID/smaps` and the like share it. Whoever holds it long makes everybody else wait: a monitoring agent that
    /// reads smaps of a large process stops every mmap in it for milliseconds.
    ///
    /// *Found when* waits for this lock by the threads that somebody waited for take at least 10 % of the window. The
    /// finding names the holder: the code in the process itself where that was in a memory call, else the thread, or the
    /// foreign process. A writer is named exactly. Of readers the lock names the last one only, which may have left:
    /// then the confidence is at most medium, unless the same one is named nearly every time.
    ///
    /// *Looks like*: slow memory calls that work long themselves (there nobody waits), reclaim inside a fault (there a
    /// row of `reclaims` lies in it), lock contention in the program (futex: no memory call waits).
    ///
    /// *What to do*: in the process: fewer, smaller or rarer calls that change mappings (an allocator that keeps its
    /// memory; no mprotect or MADV_DONTNEED of huge ranges). A foreign reader: drop the metric that reads smaps, or read
    /// it rarely. Page faults that wait: a kernel from 6.4 on.
    pub struct MmapLockContention(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    let Some(ledger) = main_ledger(joined) else {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the capture holds no window to look at"));
    };
    if !probe_ran(joined, "lock_waits") {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the probe `lock_waits` did not run"));
    }
    let mut groups: Vec<&LockWaitGroup> =
        joined.facts.lock_waits.iter().filter(|g| g.stalls.pid == ledger.pid).collect();
    let wall_ns = stalls::rank(&mut groups, ledger, |g| &g.stalls);
    if common::cost(ledger, wall_ns).share() >= MIN_SHARE {
        return Outcome::Found(vec![finding(joined, ledger, &groups, wall_ns)]);
    }
    let none = "no thread of the process had to wait for it";
    let why = stalls::too_few(groups.iter().map(|g| &g.stalls), ledger, none);
    Outcome::RuledOut(ruled_out(joined, CODE, CAUSE, why, &["lock_waits"]))
}

/// Waits for one holder.
struct Held<'a> {
    holder: &'a LockHolder,
    count: u64,
    wall_ns: i64,
}

/// The holders, most time in the window first: the same process and code once.
fn holders<'a>(groups: &[&'a LockWaitGroup], ledger: &Ledger) -> Vec<Held<'a>> {
    let mut out: Vec<Held<'a>> = Vec::new();
    for g in groups {
        let Some(holder) = &g.holder else { continue };
        let same = |h: &&mut Held<'_>| identity(h.holder) == identity(holder);
        match out.iter_mut().find(same) {
            Some(h) => {
                h.count += g.stalls.count;
                h.wall_ns += g.stalls.in_window(ledger);
            }
            None => out.push(Held { holder, count: g.stalls.count, wall_ns: g.stalls.in_window(ledger) }),
        }
    }
    out.sort_by_key(|h| std::cmp::Reverse((h.wall_ns, h.count)));
    out
}

/// Foreign processes by their names, own threads by their code.
fn identity(holder: &LockHolder) -> (bool, Option<&str>) {
    match holder.foreign {
        true => (true, Some(&holder.comm)),
        false => (false, holder.place.as_ref().map(|l| l.function.as_str())),
    }
}

/// The foreign holder, one or many.
fn foreign(holder: &LockHolder) -> String {
    let comm = holder.comm.replace('`', "'");
    match holder.processes {
        0 | 1 => format!("process {} (`{comm}`)", holder.pid),
        n => format!("`{comm}` ({} processes, the first {})", units::count(n), holder.pid),
    }
}

/// `groups` are those of the process, most time in the window first.
fn finding(joined: &Joined, ledger: &Ledger, groups: &[&LockWaitGroup], wall_ns: i64) -> Finding {
    let (count, _, longest) = Stalls::total(groups.iter().map(|g| &g.stalls));
    let holders = holders(groups, ledger);
    let main = holders.first();
    let waiter = groups.first().and_then(|g| g.stalls.who.clone());
    let cost = common::cost(ledger, wall_ns);
    let mut doubt = Doubt::new();
    doubt.accounting(joined, "lock_waits");
    judge(&mut doubt, main, count);
    let (confidence, confidence_reasons) = doubt.finish();
    let held = match main {
        Some(h) => format!("most of it while {} held it", describe(h.holder)),
        None => "who held it is not known".to_owned(),
    };
    Finding {
        code: CODE.to_owned(),
        title: "mmap_lock contention".to_owned(),
        claim: format!(
            "the {} waited {} of {} for the lock of the address space (mmap_lock; {} waits in the capture, the longest {}), as {} wanted to go on: {held}",
            ledger.window.name,
            units::duration(wall_ns),
            units::duration(cost.window_ns),
            units::count(count),
            units::duration(longest),
            place(waiter.as_ref()),
        ),
        pid: ledger.pid,
        confidence,
        confidence_reasons,
        location: main.and_then(|h| h.holder.place.clone()).or(waiter),
        evidence: evidence(ledger, groups, &holders),
        against: Vec::new(),
        look_alikes: vec![LookAlike {
            cause: "memory calls that take long themselves".to_owned(),
            observation: "the kernel had these threads wait for the lock".to_owned(),
            excluded: true,
        }],
        stacks: stacks(groups, &holders),
        fix: Fix {
            what: fix(main.map(|h| h.holder)),
            gain_low_ns: main.map(|h| h.wall_ns),
            gain_high_ns: Some(wall_ns),
            caution: None,
        },
        cost: Some(cost),
    }
}

/// How sure it is that the holder is the one.
fn judge(doubt: &mut Doubt, main: Option<&Held<'_>>, waits: u64) {
    let Some(h) = main else {
        return doubt.at_most(Confidence::Medium, "the lock named nobody as its holder");
    };
    if h.holder.mode == "write" {
        return doubt.supported("the holder had the lock alone, so its name is exact");
    }
    let share = h.count as f64 / waits.max(1) as f64;
    let text =
        format!("of the readers the lock names the last one only; it was this one in {} of the waits", percent(share));
    if share >= MIN_NAMED && waits >= MIN_WAITS {
        doubt.supported(text);
    } else {
        doubt.at_most(Confidence::Medium, text);
    }
}

fn describe(holder: &LockHolder) -> String {
    let comm = holder.comm.replace('`', "'");
    if holder.recorder {
        return "mtrace itself, which read the process's maps or smaps_rollup,".to_owned();
    }
    match (&holder.place, &holder.call) {
        (Some(l), Some(call)) => format!("{} in {call}", place(Some(l))),
        (_, Some(call)) => format!("its thread `{comm}` in {call}"),
        _ if holder.foreign => format!("{}, another program,", foreign(holder)),
        _ => format!("its thread `{comm}`"),
    }
}

fn evidence(ledger: &Ledger, groups: &[&LockWaitGroup], holders: &[Held<'_>]) -> Vec<Evidence> {
    let (count, sum, _) = Stalls::total(groups.iter().map(|g| &g.stalls));
    let mut out = vec![Evidence {
        what: "waits for mmap_lock in the capture, all threads".to_owned(),
        value: format!("{}, {} in all", units::count(count), units::duration(sum)),
        query: Some(format!(
            "SELECT mode, holder_pid, holder_comm, count(*), sum(dur), max(dur) FROM 'CAPTURE/lock_waits/*.parquet' WHERE pid = {} GROUP BY ALL",
            ledger.pid
        )),
    }];
    out.extend(holders.iter().take(3).map(|h| Evidence {
        what: format!("held by {} ({})", describe(h.holder).trim_end_matches(','), h.holder.mode),
        value: format!("{} waits, {} of the {}", units::count(h.count), units::duration(h.wall_ns), ledger.window.name),
        query: None,
    }));
    out
}

fn stacks(groups: &[&LockWaitGroup], holders: &[Held<'_>]) -> Vec<NamedStack> {
    let held = holders.iter().filter(|h| !h.holder.stack.is_empty()).take(2).map(|h| NamedStack {
        title: "held the lock".to_owned(),
        weight: format!("{} waits", units::count(h.count)),
        frames: h.holder.stack.clone(),
    });
    held.chain(stalls::stacks("waited for it", groups.iter().map(|g| &g.stalls))).collect()
}

fn fix(holder: Option<&LockHolder>) -> String {
    match holder {
        Some(h) if h.recorder => "record without the reading of smaps, or less often: the recorder did this".to_owned(),
        Some(h) if h.foreign => format!(
            "stop {} from reading this process's memory so often: drop the metric that reads its smaps, maps or clear_refs",
            foreign(h)
        ),
        Some(h) if h.place.is_some() => {
            format!("make fewer, smaller or rarer calls that change the mappings: look at {}", place(h.place.as_ref()))
        }
        _ => "make fewer, smaller or rarer calls that change the mappings".to_owned(),
    }
}
