use super::common::{Doubt, main_ledger, not_checked, place, probe_ran, ruled_out};
use super::{Outcome, common, rule, stalls};
use crate::context::Joined;
use crate::model::{Confidence, Evidence, Finding, Fix, Ledger, LookAlike, ReclaimGroup, Stalls};
use crate::units;

const CODE: &str = "reclaim-stalls";
const CAUSE: &str = "threads had to reclaim or compact memory before they could go on";

/// Part of the window below which it is not worth a finding.
const MIN_SHARE: f64 = 0.10;

/// Kinds, as in the table.
const KINDS: [&str; 3] = ["memcg", "direct", "compaction"];

rule! {
    /// **Reclaim stalls.** A memory cgroup is at its limit, or the host is out of free memory: then the kernel makes the
    /// thread that wants a page free others first, within its page fault or read. What is freed is often what is needed
    /// next (the program's own code and mapped files), so the same pages are read again: thrashing.
    ///
    /// *Found when* reclaim by the threads that somebody waited for takes at least 10 % of the window. The claim says
    /// for which limit: `memcg` (the cgroup's memory.max or limit_in_bytes), `direct` (the host), `compaction` (a free
    /// block for a huge page).
    ///
    /// *Looks like*: a first-touch fault storm or a cold read (there nothing is reclaimed), memory.high throttling
    /// (there the thread sleeps on its way out of the kernel and reclaims little), a slow disk (there major faults are
    /// slow and nothing is reclaimed).
    ///
    /// *What to do*: memcg: raise the limit, or make the working set smaller. Direct: find who uses the host's memory,
    /// or keep more of it free (vm.min_free_kbytes). Compaction: let huge pages be made in the background
    /// (`/sys/kernel/mm/transparent_hugepage/defrag` = defer).
    pub struct ReclaimStalls(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    let Some(ledger) = main_ledger(joined) else {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the capture holds no window to look at"));
    };
    if !probe_ran(joined, "reclaims") {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the probe `reclaims` did not run"));
    }
    let groups = || joined.facts.reclaims.iter().filter(|g| g.stalls.pid == ledger.pid);
    let found: Vec<Finding> = KINDS
        .iter()
        .filter_map(|kind| {
            let mut of_kind: Vec<&ReclaimGroup> = groups().filter(|g| g.kind == *kind).collect();
            let wall_ns = stalls::rank(&mut of_kind, ledger, |g| &g.stalls);
            finding(joined, ledger, &of_kind, wall_ns)
        })
        .collect();
    if !found.is_empty() {
        return Outcome::Found(found);
    }
    let none = "no thread of the process had to reclaim or compact memory";
    let why = stalls::too_few(groups().map(|g| &g.stalls), ledger, none);
    Outcome::RuledOut(ruled_out(joined, CODE, CAUSE, why, &["reclaims"]))
}

/// `groups` are of one kind, those with most time in the window first.
fn finding(joined: &Joined, ledger: &Ledger, groups: &[&ReclaimGroup], wall_ns: i64) -> Option<Finding> {
    let g = *groups.first()?;
    let (count, all_ns, longest) = Stalls::total(groups.iter().map(|g| &g.stalls));
    let freed = groups.iter().fold(0_u64, |sum, g| sum.saturating_add(g.reclaimed_pages));
    let cost = common::cost(ledger, wall_ns);
    if cost.share() < MIN_SHARE {
        return None;
    }
    let mut doubt = Doubt::new();
    doubt.accounting(joined, "reclaims");
    if g.stalls.who.is_none() {
        doubt.at_most(Confidence::Medium, "the code that had to wait could not be named");
    }
    let majors = major_faults(joined, ledger);
    let (confidence, confidence_reasons) = doubt.finish();
    Some(Finding {
        code: CODE.to_owned(),
        title: "Reclaim stalls".to_owned(),
        claim: format!(
            "the {} spent {} of {} in {} ({} times in the capture, the longest {}), most of it before {} could go on: {}",
            ledger.window.name,
            units::duration(wall_ns),
            units::duration(cost.window_ns),
            what(&g.kind),
            units::count(count),
            units::duration(longest),
            place(g.stalls.who.as_ref()),
            whose(&g.kind),
        ),
        pid: ledger.pid,
        confidence,
        confidence_reasons,
        location: g.stalls.who.clone(),
        evidence: vec![
            Evidence {
                what: format!("{} in the capture, all threads", what(&g.kind)),
                value: format!(
                    "{} times, {} in all, {} pages freed",
                    units::count(count),
                    units::duration(all_ns),
                    units::count(freed)
                ),
                query: Some(format!(
                    "SELECT count(*), sum(dur), max(dur) FROM 'CAPTURE/reclaims/*.parquet' WHERE pid = {} AND kind = '{}'",
                    ledger.pid, g.kind
                )),
            },
            Evidence { what: "major faults of the process in the capture".to_owned(), value: majors, query: None },
        ],
        against: Vec::new(),
        look_alikes: vec![LookAlike {
            cause: "a cold read or a slow disk".to_owned(),
            observation: format!("{} pages had to be freed for it", units::count(freed)),
            excluded: freed > 0,
        }],
        stacks: stalls::stacks("had to wait for it", groups.iter().map(|g| &g.stalls)),
        fix: Fix {
            what: fix(&g.kind).to_owned(),
            gain_low_ns: Some(wall_ns),
            gain_high_ns: None,
            caution: Some(
                "what is not reclaimed any more is not read again either: the gain is larger than the reclaim alone"
                    .to_owned(),
            ),
        },
        cost: Some(cost),
    })
}

fn major_faults(joined: &Joined, ledger: &Ledger) -> String {
    use crate::model::TouchKind::{AnonMajor, FileMajor};
    let of =
        joined.facts.faults.kinds.iter().filter(|k| k.pid == ledger.pid && matches!(k.kind, AnonMajor | FileMajor));
    let (faults, pages) = of.fold((0, 0), |(f, p), k| (f + k.faults, p + k.pages));
    format!("{} on {} pages", units::count(faults), units::count(pages))
}

fn what(kind: &str) -> &'static str {
    match kind {
        "memcg" => "reclaim for its memory cgroup",
        "direct" => "direct reclaim",
        _ => "direct compaction",
    }
}

fn whose(kind: &str) -> &'static str {
    match kind {
        "memcg" => "the memory cgroup was at its limit",
        "direct" => "the host had too little free memory",
        _ => "no free block of the size of a huge page was left",
    }
}

fn fix(kind: &str) -> &'static str {
    match kind {
        "memcg" => {
            "raise the limit of the memory cgroup (memory.max, limit_in_bytes), or make what the process uses smaller"
        }
        "direct" => "free memory on the host: find who uses it; raise vm.min_free_kbytes so that kswapd begins earlier",
        _ => "let huge pages be made in the background: transparent_hugepage/defrag = defer (or madvise)",
    }
}
