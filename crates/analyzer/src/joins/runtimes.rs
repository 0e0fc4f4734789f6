//! What the language runtimes of the targets were set to and what they did.

use std::collections::BTreeMap;

use mtrace_formats::capture::{Manifest, ProbeStatus};
use mtrace_formats::tables::{
    GoMemory, GoMemoryKind, JvmEvent, JvmEventKind, RuntimeKind, RuntimeSetting, SettingState,
};

use super::jvm;
use super::ledger::Split;
use crate::load::{NONE, Tables};
use crate::model::{RuntimeFacts, RuntimeValue, RuntimeWork, Runtimes};
use crate::symbols::SymbolTable;

/// No limit: `math.MaxInt64`.
const NO_LIMIT: u64 = i64::MAX as u64;

/// All of it, by process.
pub(crate) fn runtimes(t: &Tables, splits: &[Split], manifest: &Manifest) -> Runtimes {
    let mut found: BTreeMap<(u32, RuntimeKind), RuntimeFacts> = BTreeMap::new();
    for s in &t.runtimes {
        let of = entry(&mut found, s.pid, s.kind);
        of.version = of.version.take().or_else(|| s.version.clone());
        of.settings.push(setting(s));
    }
    let mut go: BTreeMap<u32, Vec<(u32, &GoMemory)>> = BTreeMap::new();
    for (row, e) in (0_u32..).zip(&t.go_memory) {
        go.entry(e.pid).or_default().push((row, e));
    }
    for (pid, rows) in go {
        let of = entry(&mut found, pid, RuntimeKind::Go);
        of.settings.extend(rows.iter().filter_map(|(_, e)| change(e)));
        of.work = go_work(pid, &rows, splits, &t.symbols);
    }
    let mut jvm: BTreeMap<u32, Vec<&JvmEvent>> = BTreeMap::new();
    t.jvm.iter().for_each(|e| jvm.entry(e.pid).or_default().push(e));
    for (pid, rows) in jvm {
        entry(&mut found, pid, RuntimeKind::Jvm).work = jvm_work(&rows);
    }
    for p in found.values_mut() {
        p.settings_complete = seen_from_its_start(manifest, p.pid);
    }
    Runtimes { processes: found.into_values().collect(), short_assists: short_assists(manifest) }
}

fn entry(found: &mut BTreeMap<(u32, RuntimeKind), RuntimeFacts>, pid: u32, kind: RuntimeKind) -> &mut RuntimeFacts {
    found.entry((pid, kind)).or_insert_with(|| RuntimeFacts {
        pid,
        kind: kind.name().to_owned(),
        version: None,
        settings: Vec::new(),
        settings_complete: false,
        work: Vec::new(),
    })
}

fn seen_from_its_start(m: &Manifest, pid: u32) -> bool {
    let target = m.targets.iter().find(|t| t.pid == pid);
    let born = target.is_some_and(|t| t.how == "launched" || t.how.starts_with("child of"));
    born && m.probes.iter().any(|p| p.name == "go_memory" && p.status == ProbeStatus::Ran)
}

fn setting(s: &RuntimeSetting) -> RuntimeValue {
    RuntimeValue {
        key: s.key.clone(),
        value: s.value.clone(),
        known: s.state != SettingState::Unreadable,
        set_ns: None,
    }
}

/// A setting that the program changed; asking for the memory limit changes nothing.
fn change(e: &GoMemory) -> Option<RuntimeValue> {
    let (key, value) = match e.event {
        GoMemoryKind::SetGcPercent => ("debug.SetGCPercent", e.percent?.to_string()),
        GoMemoryKind::SetMemoryLimit => {
            let limit = e.bytes.filter(|b| *b <= NO_LIMIT)?;
            ("debug.SetMemoryLimit", if limit == NO_LIMIT { "none".to_owned() } else { limit.to_string() })
        }
        _ => return None,
    };
    Some(RuntimeValue { key: key.to_owned(), value: Some(value), known: true, set_ns: Some(e.ts) })
}

fn short_assists(m: &Manifest) -> Option<(u64, i64)> {
    let account = m.accounts.iter().find(|a| a.probe == "go_memory")?;
    let of = |key: &str| account.ignored.get(key).copied();
    Some((of("below_minimum")?, i64::try_from(of("below_minimum_ns")?).unwrap_or(i64::MAX)))
}

fn go_work(pid: u32, rows: &[(u32, &GoMemory)], splits: &[Split], symbols: &SymbolTable) -> Vec<RuntimeWork> {
    let mut out = Vec::new();
    for (kind, what) in [
        (GoMemoryKind::MarkAssist, "mark assist"),
        (GoMemoryKind::ParkAssist, "waiting for the collector (park assist)"),
        (GoMemoryKind::HeapGrowth, "heap growth"),
        (GoMemoryKind::Scavenge, "scavenging"),
    ] {
        let of: Vec<_> = rows.iter().filter(|(_, e)| e.event == kind).collect();
        let mut work = Sum::of(of.iter().map(|(_, e)| e.dur.unwrap_or(0)));
        if work.count == 0 {
            continue;
        }
        let mut by_function: BTreeMap<_, (i64, u32)> = BTreeMap::new();
        for (_, e) in &of {
            let stack = e.stack_id.unwrap_or(NONE);
            let sum = by_function.entry(symbols.function_id(stack)).or_insert((0, stack));
            sum.0 = sum.0.saturating_add(e.dur.unwrap_or(0));
        }
        let most = by_function.into_values().max_by_key(|f| f.0).map_or(NONE, |f| f.1);
        work.bytes = of.iter().filter_map(|(_, e)| e.bytes).reduce(u64::saturating_add);
        let mut work = work.named(what);
        work.who = symbols.location_of(most);
        work.stack = symbols.stack(most);
        if kind == GoMemoryKind::MarkAssist {
            let members: Vec<u32> = of.iter().map(|(row, _)| *row).collect();
            let windows = splits.iter().filter(|s| s.ledger.pid == pid);
            work.in_windows =
                windows.map(|s| (s.ledger.window.name.clone(), s.overlay_ns("go_memory", &members))).collect();
        }
        out.push(work);
    }
    out.sort_by_key(|w| std::cmp::Reverse(w.sum_ns));
    out
}

fn jvm_work(rows: &[&JvmEvent]) -> Vec<RuntimeWork> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for c in jvm::collections(rows) {
        let freed = c.heap_bytes.map(|(before, after)| before.saturating_sub(after));
        sums.entry(c.collector).or_default().add(c.end - c.start, freed);
    }
    for e in rows {
        let what = match (e.event, e.name.as_deref()) {
            (JvmEventKind::Safepoint, _) => "safepoints, all".to_owned(),
            (JvmEventKind::VmOperation, Some(name)) => format!("VM operation {name}"),
            _ => continue,
        };
        sums.entry(what).or_default().add(e.dur.unwrap_or(0), None);
    }
    let mut out: Vec<RuntimeWork> = sums.into_iter().map(|(what, sum)| sum.named(&what)).collect();
    out.sort_by_key(|w| std::cmp::Reverse(w.sum_ns));
    out
}

#[derive(Default)]
struct Sum {
    count: u64,
    sum_ns: i64,
    max_ns: i64,
    bytes: Option<u64>,
}

impl Sum {
    fn of(durations: impl Iterator<Item = i64>) -> Self {
        let mut sum = Self::default();
        durations.for_each(|d| sum.add(d, None));
        sum
    }

    fn add(&mut self, dur: i64, bytes: Option<u64>) {
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(dur);
        self.max_ns = self.max_ns.max(dur);
        if let Some(b) = bytes {
            self.bytes = Some(self.bytes.unwrap_or(0).saturating_add(b));
        }
    }

    fn named(self, what: &str) -> RuntimeWork {
        RuntimeWork {
            what: what.to_owned(),
            count: self.count,
            sum_ns: self.sum_ns,
            max_ns: self.max_ns,
            bytes: self.bytes,
            who: None,
            in_windows: Vec::new(),
            stack: Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn go(event: GoMemoryKind, dur: Option<i64>, bytes: Option<u64>, percent: Option<i32>) -> GoMemory {
        GoMemory { ts: 5, dur, pid: 10, tid: 10, event, bytes, percent, stack_id: None }
    }

    #[test]
    fn work_and_settings_are_told_apart() {
        let rows = vec![
            go(GoMemoryKind::MarkAssist, Some(30), None, None),
            go(GoMemoryKind::MarkAssist, Some(50), None, None),
            go(GoMemoryKind::Scavenge, Some(10), Some(4096), None),
            go(GoMemoryKind::SetGcPercent, None, None, Some(-1)),
            go(GoMemoryKind::SetMemoryLimit, None, Some(1 << 30), None),
            go(GoMemoryKind::SetMemoryLimit, None, Some(u64::MAX), None),
            go(GoMemoryKind::SetMemoryLimit, None, Some(NO_LIMIT), None),
        ];
        let found = runtimes(&Tables { go_memory: rows, ..Tables::default() }, &[], &Manifest::default());
        let p = &found.processes[0];
        let work: Vec<_> = p.work.iter().map(|w| (w.what.as_str(), w.count, w.sum_ns, w.max_ns, w.bytes)).collect();
        assert_eq!(work, [("mark assist", 2, 80, 50, None), ("scavenging", 1, 10, 10, Some(4096))]);
        let settings: Vec<_> = p.settings.iter().map(|s| (s.key.as_str(), s.value.as_deref().unwrap())).collect();
        let expected =
            [("debug.SetGCPercent", "-1"), ("debug.SetMemoryLimit", "1073741824"), ("debug.SetMemoryLimit", "none")];
        assert_eq!(settings, expected);
        assert_eq!(found.short_assists, None);
    }

    #[test]
    fn what_could_not_be_read_is_not_known() {
        let row = |key: &str, state| RuntimeSetting {
            ts: 1,
            pid: 10,
            kind: RuntimeKind::Go,
            version: Some("go1.25".to_owned()),
            key: key.to_owned(),
            state,
            value: None,
        };
        let rows = vec![row("GOGC", SettingState::NotSet), row("GODEBUG", SettingState::Unreadable)];
        let found = runtimes(&Tables { runtimes: rows, ..Tables::default() }, &[], &Manifest::default());
        let p = &found.processes[0];
        assert_eq!((p.version.as_deref(), p.settings[0].known, p.settings[1].known), (Some("go1.25"), true, false));
    }
}
