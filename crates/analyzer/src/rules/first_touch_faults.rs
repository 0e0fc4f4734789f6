use std::collections::HashMap;

use super::common::{Doubt, main_ledger, not_checked, place, probe_ran, reclaim_look_alike, ruled_out};
use super::{Outcome, common, rule};
use crate::context::Joined;
use crate::model::{
    CodeLocation, Confidence, Evidence, FaultGroup, Finding, Fix, Ledger, LedgerCategory, LookAlike, NamedStack,
    TouchKind,
};
use crate::requests::FIRST_REQUEST;
use crate::units;

const CODE: &str = "first-touch-faults";
const CAUSE: &str = "first touch of fresh memory on the request path";

/// Part of the window below which it is not worth a finding.
const MIN_SHARE: f64 = 0.10;
/// Fewer faults than this are ordinary.
const MIN_FAULTS: u64 = 256;

rule! {
    /// **First-touch fault storm.** Memory that was mapped earlier (at start, by a cache, by an arena) is touched for
    /// the first time while somebody waits: every 4 KiB page costs a page fault, in which the kernel finds and zeroes
    /// a page. mmap itself is cheap and maps nothing, so the bill comes with the first request after a deploy, or with
    /// the later one that is the first to need more memory than any before.
    ///
    /// *Found when* first-touch faults on anonymous memory take at least 10 % of the window (and there are at least
    /// 256 of them). The claim names who touched and who mapped.
    ///
    /// *Looks like*: purge–refault churn (there the same pages fault again and again), swap-in or thrash (there the
    /// faults are major), reclaim (there a few faults take very long and PSI rises).
    ///
    /// *What to do*: touch the memory before the service says it is ready (AlwaysPreTouch for a JVM, a loop that
    /// writes one byte per page, MAP_POPULATE for memory that you map yourself; Go's heap cannot be populated by
    /// mmap flags), or have less of it, or back it by huge pages; in a later request keep and reuse what earlier ones
    /// touched. Populating moves the cost to start-up, it does not remove it.
    pub struct FirstTouchFaults(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    let Some(ledger) = main_ledger(joined) else {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the capture holds no window to look at"));
    };
    if !probe_ran(joined, "faults") {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "page faults were not recorded"));
    }
    let window = ledger.window.name.as_str();
    let found: Vec<Finding> = by_toucher(joined, ledger).iter().filter_map(|g| finding(joined, ledger, g)).collect();
    if found.is_empty() {
        let (n, ns) = joined
            .facts
            .faults
            .groups
            .iter()
            .filter(|g| is_first_touch(g, ledger))
            .map(|g| in_window(g, window))
            .fold((0, 0), |(n, ns), (gn, gns)| (n + gn, ns + gns));
        // Threads beside the critical path made them: whether the request waited for one of these is not known.
        if n >= MIN_FAULTS && ns as f64 >= MIN_SHARE * ledger.total_ns() as f64 {
            let most = joined
                .facts
                .faults
                .groups
                .iter()
                .filter(|g| is_first_touch(g, ledger))
                .max_by_key(|g| in_window(g, window).1);
            let why = format!(
                "{} first-touch faults took {} during the {window}, most of them in {}, beside the threads that it is known to have waited for",
                units::count(n),
                units::duration(ns),
                place(most.and_then(|g| g.toucher.as_ref())),
            );
            return Outcome::RuledOut(not_checked(CODE, CAUSE, why));
        }
        return Outcome::RuledOut(ruled_out(
            joined,
            CODE,
            CAUSE,
            format!("{} first-touch faults in the {window}, {} in all", units::count(n), units::duration(ns)),
            &["faults"],
        ));
    }
    Outcome::Found(found)
}

/// First touches of one code, whoever mapped: a heap that grew in many places is one cause. The mapper, its stack and the
/// mapping are those with most time in the window.
struct Touched {
    group: FaultGroup,
    /// Places that mapped what it touched.
    mappers: usize,
}

fn by_toucher(joined: &Joined, ledger: &Ledger) -> Vec<Touched> {
    let window = ledger.window.name.as_str();
    let mut groups: Vec<&FaultGroup> =
        joined.facts.faults.groups.iter().filter(|g| is_first_touch(g, ledger)).collect();
    groups.sort_by_key(|g| std::cmp::Reverse(in_window(g, window).1));
    let mut out: Vec<Touched> = Vec::new();
    // Looked up, not searched for: a process that executed thousands of programs has as many groups.
    let mut known: HashMap<Option<&CodeLocation>, usize> = HashMap::new();
    for g in groups {
        let next = out.len();
        match *known.entry(g.toucher.as_ref()).or_insert(next) {
            i if i < next => out[i].add(g),
            _ => out.push(Touched { group: g.clone(), mappers: 1 }),
        }
    }
    out
}

fn is_first_touch(group: &FaultGroup, ledger: &Ledger) -> bool {
    group.pid == ledger.pid && group.kind == TouchKind::AnonFirstTouch
}

impl Touched {
    fn add(&mut self, other: &FaultGroup) {
        self.mappers += 1;
        let g = &mut self.group;
        g.faults += other.faults;
        g.pages += other.pages;
        g.sum_ns = g.sum_ns.saturating_add(other.sum_ns);
        g.first_ns = g.first_ns.min(other.first_ns);
        g.last_ns = g.last_ns.max(other.last_ns);
        for (name, n, ns) in &other.in_windows {
            match g.in_windows.iter_mut().find(|(of, ..)| of == name) {
                Some(w) => (w.1, w.2) = (w.1 + n, w.2.saturating_add(*ns)),
                None => g.in_windows.push((name.clone(), *n, *ns)),
            }
        }
    }
}

fn in_window(group: &FaultGroup, window: &str) -> (u64, i64) {
    group.in_windows.iter().find(|(name, ..)| name == window).map_or((0, 0), |(_, n, ns)| (*n, *ns))
}

/// Wall time of the group's faults on the critical path of the window.
fn on_critical_path(joined: &Joined, ledger: &Ledger, group: &FaultGroup) -> i64 {
    joined
        .shares_of(ledger, LedgerCategory::Faults)
        .filter(|s| s.kind == Some(group.kind) && s.who == group.toucher)
        .map(|s| s.wall_ns)
        .sum()
}

fn finding(joined: &Joined, ledger: &Ledger, touched: &Touched) -> Option<Finding> {
    let group = &touched.group;
    let (faults, group_ns) = in_window(group, &ledger.window.name);
    if faults < MIN_FAULTS {
        return None;
    }
    let wall_ns = on_critical_path(joined, ledger, group);
    let cost = common::cost(ledger, wall_ns);
    if cost.share() < MIN_SHARE {
        return None;
    }
    let mean = group_ns / i64::try_from(faults.max(1)).unwrap_or(1);
    let mut doubt = Doubt::new();
    doubt.accounting(joined, "faults");
    doubt.fault_coverage(joined);
    doubt.requests(joined, ledger);
    let charged = ledger.wall_ns(LedgerCategory::Faults);
    if let Some(larger) = ledger.rows.iter().find(|r| r.wall_ns > charged && r.category != LedgerCategory::Recorder) {
        doubt.at_most(
            Confidence::Medium,
            format!(
                "{} took more of the window: {}",
                units::category(larger.category),
                units::duration(larger.wall_ns)
            ),
        );
    }
    if group.toucher.is_none() {
        doubt.at_most(Confidence::Medium, "the code that touched could not be named");
    }
    let (confidence, confidence_reasons) = doubt.finish();
    let who = place(group.toucher.as_ref());
    let claim = format!(
        "the {} spent {} of {} in {} first-touch page faults in {who}: memory mapped by {} is touched there for the first time",
        ledger.window.name,
        units::duration(wall_ns),
        units::duration(cost.window_ns),
        units::count(faults),
        mapped_by(touched),
    );
    Some(Finding {
        code: CODE.to_owned(),
        title: "First-touch fault storm".to_owned(),
        claim,
        pid: group.pid,
        confidence,
        confidence_reasons,
        location: group.toucher.clone(),
        evidence: evidence(joined, ledger, group, faults, group_ns, mean),
        against: against(joined, group, mean),
        look_alikes: look_alikes(joined, ledger),
        stacks: stacks(group, faults, group_ns),
        fix: fix(joined, ledger, group, faults, wall_ns),
        cost: Some(cost),
    })
}

fn mapped_by(touched: &Touched) -> String {
    let most = match &touched.group.mapper {
        Some(mapper) => place(Some(mapper)),
        None => "code that is not known (before the recording, by exec, or without a stack)".to_owned(),
    };
    match touched.mappers {
        1 => most,
        2 => format!("{most}, and another place,"),
        n => format!("{most}, and {} other places,", n - 1),
    }
}

fn evidence(joined: &Joined, ledger: &Ledger, group: &FaultGroup, faults: u64, ns: i64, mean: i64) -> Vec<Evidence> {
    let (start, end) = (ledger.window.start_ns, ledger.window.end_ns);
    let query = common::faults_query(
        joined,
        &format!("pid = {} AND kind = 'minor' AND ts BETWEEN {start} AND {end}", group.pid),
    );
    let minor = |g: &&FaultGroup| g.pid == group.pid && !matches!(g.kind, TouchKind::FileMajor | TouchKind::AnonMajor);
    let (all_faults, all_ns) = joined
        .facts
        .faults
        .groups
        .iter()
        .filter(minor)
        .map(|g| in_window(g, &ledger.window.name))
        .fold((0, 0), |(n, ns), (gn, gns)| (n + gn, ns + gns));
    vec![
        Evidence {
            what: format!("first-touch faults of this code in the {}", ledger.window.name),
            value: format!("{}, {} in all, {} each", units::count(faults), units::duration(ns), units::duration(mean)),
            query: None,
        },
        Evidence {
            what: format!("minor faults of the whole process in the {}, these among them", ledger.window.name),
            value: format!("{}, {} in all", units::count(all_faults), units::duration(all_ns)),
            query: Some(query),
        },
        Evidence {
            what: "distinct pages behind all its faults in the capture".to_owned(),
            value: format!(
                "{} pages ({}), {} faults",
                units::count(group.pages),
                units::bytes(group.pages * common::page_bytes(joined)),
                units::count(group.faults)
            ),
            query: None,
        },
    ]
}

fn against(joined: &Joined, group: &FaultGroup, mean: i64) -> Vec<String> {
    let mut out = Vec::new();
    if group.faults > group.pages + group.pages / 20 {
        out.push(format!(
            "{} faults on {} pages: some pages faulted more than once",
            units::count(group.faults),
            units::count(group.pages)
        ));
    }
    // A plain first touch of a 4 KiB page takes 0.5 to 3 µs, on a virtual machine too.
    if mean > 20_000 {
        out.push(format!("{} each is slow for a plain first touch: see the look-alikes", units::duration(mean)));
    }
    if joined.facts.capture.thp_enabled.as_deref() == Some("always") {
        out.push("transparent huge pages are always on: one fault may bring in 2 MiB".to_owned());
    }
    out
}

fn look_alikes(joined: &Joined, ledger: &Ledger) -> Vec<LookAlike> {
    let count = |kind: TouchKind| -> u64 {
        joined
            .facts
            .faults
            .groups
            .iter()
            .filter(|g| g.pid == ledger.pid && g.kind == kind)
            .map(|g| in_window(g, &ledger.window.name).0)
            .sum()
    };
    let refaults = count(TouchKind::AnonRefault);
    let majors = count(TouchKind::AnonMajor) + count(TouchKind::FileMajor);
    vec![
        LookAlike {
            cause: "purge–refault churn: pages given back and touched again".to_owned(),
            observation: format!("{} faults in the window hit pages that had been given back", units::count(refaults)),
            excluded: refaults * 20 < count(TouchKind::AnonFirstTouch),
        },
        LookAlike {
            cause: "swap-in or reading files: major faults".to_owned(),
            observation: format!("{} major faults in the window", units::count(majors)),
            excluded: majors * 20 < count(TouchKind::AnonFirstTouch),
        },
        reclaim_look_alike(joined),
    ]
}

fn stacks(group: &FaultGroup, faults: u64, ns: i64) -> Vec<NamedStack> {
    let mut out = vec![NamedStack {
        title: "touched by".to_owned(),
        weight: format!("{} faults, {}", units::count(faults), units::duration(ns)),
        frames: group.touch_stack.clone(),
    }];
    if !group.map_stack.is_empty() {
        out.push(NamedStack {
            title: "mapped by".to_owned(),
            weight: group.mapping.clone(),
            frames: group.map_stack.clone(),
        });
    }
    out
}

fn fix(joined: &Joined, ledger: &Ledger, group: &FaultGroup, faults: u64, wall_ns: i64) -> Fix {
    let median = joined
        .facts
        .faults
        .kinds
        .iter()
        .find(|k| k.pid == group.pid && k.kind == TouchKind::AnonFirstTouch)
        .and_then(|k| k.latency.p50_ns);
    // At least the median service time of each: what outliers and the way in and out of the kernel cost is not sure.
    let low = median.map(|m| wall_ns.min(m.saturating_mul(i64::try_from(faults).unwrap_or(i64::MAX))));
    let (size, who) = (units::bytes(group.pages * common::page_bytes(joined)), place(group.toucher.as_ref()));
    if group.faults > group.pages + group.pages / 20 {
        return Fix {
            what: format!(
                "keep and reuse the {size} that {who} touches: it is mapped anew again and again, and each new mapping has to be touched anew"
            ),
            gain_low_ns: low,
            gain_high_ns: Some(wall_ns),
            caution: Some(format!("touching it earlier gains nothing; kept memory stays resident ({size})")),
        };
    }
    if ledger.window.name == FIRST_REQUEST {
        return before_the_first(size, who, (low, wall_ns));
    }
    if ledger.window.request.is_some() {
        return before_any(size, who, (low, wall_ns));
    }
    Fix {
        what: format!(
            "touch less memory in {who} ({size}), or let huge pages back it; touching it at another time only moves the cost"
        ),
        gain_low_ns: None,
        gain_high_ns: None,
        caution: None,
    }
}

/// The first request after a start: the start can do it.
fn before_the_first(size: String, who: String, (low, high): (Option<i64>, i64)) -> Fix {
    Fix {
        what: format!(
            "touch the {size} that {who} fills before the service says it is ready (write one byte per page), or fill it at start"
        ),
        gain_low_ns: low,
        gain_high_ns: Some(high),
        caution: Some(format!(
            "the faults move to start-up and take about {} there; resident memory rises to {size} before the first request",
            units::duration(high),
        )),
    }
}

/// A later request: the start, or something that nobody waits for, can do it.
fn before_any(size: String, who: String, (low, high): (Option<i64>, i64)) -> Fix {
    Fix {
        what: format!(
            "take the {size} that {who} touches out of the request: touch them (write one byte per page) at start or in the background before a request needs them, and keep them for the next one that does"
        ),
        gain_low_ns: low,
        gain_high_ns: Some(high),
        caution: Some(format!(
            "the faults take about {} wherever they happen; resident memory is {size} higher from then on",
            units::duration(high),
        )),
    }
}
