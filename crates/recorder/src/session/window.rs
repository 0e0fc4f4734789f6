//! What a flight recorder keeps: the segments of the last periods, in order.
//!
//! A period is what lies between two closings of all segments. It may begin with a base: what a recording that starts
//! there would have to know about the targets (maps, names, sockets), in segments of its own. The oldest period always
//! has one, so a dump from there on is a capture like that of an attached recorder. Pure book-keeping: files are the
//! session's.

use std::collections::{BTreeMap, VecDeque};

use mtrace_formats::capture::SegmentInfo;

use crate::accounts::{Counters, UserCounts};

/// Tables of a base that belong to its moment only: once a capture. Its maps are welcome in any number, because each is
/// compared with the replay.
const ONCE: [&str; 2] = ["process_events", "sockets"];
/// Tables that refer to nothing in time: they are kept apart from the periods.
pub(crate) const TIMELESS: [&str; 2] = ["frames", "files"];

/// Events by table.
pub(crate) type Events = BTreeMap<&'static str, u64>;
/// What a probe and user space have counted so far.
pub(crate) type Reading = (&'static str, Counters, UserCounts);

/// One period.
#[derive(Debug, Default)]
pub(crate) struct Period {
    pub(crate) number: u32,
    /// Events are complete from here, CLOCK_MONOTONIC ns.
    pub(crate) start: i64,
    /// What had been counted when it began.
    pub(crate) at_start: Vec<Reading>,
    has_base: bool,
    base: Vec<SegmentInfo>,
    base_events: Events,
    rows: Vec<SegmentInfo>,
    row_events: Events,
}

impl Period {
    fn bytes(&self) -> u64 {
        self.base.iter().chain(&self.rows).map(|s| s.bytes).sum()
    }
}

/// The periods that are kept, the open one last.
#[derive(Debug, Default)]
pub(crate) struct Periods {
    periods: VecDeque<Period>,
    next: u32,
    /// Events and rows in segments that were dropped, by table.
    dropped_events: Events,
    dropped_rows: BTreeMap<String, u64>,
    /// The size made the last cut, not the time.
    cut_by_size: bool,
}

/// What a dump consists of.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) first_period: u32,
    pub(crate) start: i64,
    pub(crate) at_start: Vec<Reading>,
    pub(crate) segments: Vec<SegmentInfo>,
    /// Events in these segments.
    pub(crate) events: Events,
    /// Events in rows that are in the ring or were dropped from it, and are not in these segments.
    pub(crate) other_events: Events,
    pub(crate) cut_by_size: bool,
}

impl Periods {
    /// The open period got these segments; it ends.
    pub(crate) fn close(&mut self, rows: Vec<SegmentInfo>, events: Events) {
        if let Some(open) = self.periods.back_mut() {
            open.rows = rows;
            open.row_events = events;
        }
    }

    /// A period begins; with a base if `base` has one.
    pub(crate) fn open(&mut self, start: i64, at_start: Vec<Reading>, base: Option<(Vec<SegmentInfo>, Events)>) -> u32 {
        let number = self.next;
        self.next += 1;
        let has_base = base.is_some();
        let (base, base_events) = base.unwrap_or_default();
        self.periods.push_back(Period { number, start, at_start, has_base, base, base_events, ..Period::default() });
        number
    }

    /// Bytes in closed segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.periods.iter().map(Period::bytes).sum()
    }

    /// The number of the oldest period.
    pub(crate) fn oldest(&self) -> u32 {
        self.periods.front().map_or(self.next, |p| p.number)
    }

    /// Takes out what is not needed any more: what ended before `from`, and more where there are more than `max_bytes`.
    /// The open period always stays, and so does everything as long as no later period has a base.
    pub(crate) fn expire(&mut self, from: i64, max_bytes: u64) -> Vec<SegmentInfo> {
        let mut out = Vec::new();
        while let Some(next) = self.next_base() {
            let old = self.periods.get(next).is_some_and(|p| p.start <= from);
            let large = self.bytes() > max_bytes;
            if !old && !large {
                break;
            }
            self.cut_by_size = !old;
            for p in self.periods.drain(..next) {
                add(&mut self.dropped_events, &p.base_events);
                add(&mut self.dropped_events, &p.row_events);
                for s in p.base.into_iter().chain(p.rows) {
                    *self.dropped_rows.entry(s.table.clone()).or_default() += s.rows;
                    out.push(s);
                }
            }
        }
        out
    }

    /// Whether more than so many bytes are kept and the next base is wanted, to drop what is before it.
    pub(crate) fn needs_base(&self, from: i64, max_bytes: u64) -> bool {
        let front = self.periods.front().map_or(i64::MAX, |p| p.start);
        self.next_base().is_none() && (front < from || self.bytes() > max_bytes)
    }

    /// The index of the second period with a base, counting the oldest as the first.
    fn next_base(&self) -> Option<usize> {
        self.periods.iter().skip(1).position(|p| p.has_base).map(|i| i + 1)
    }

    /// What a dump needs that has to go back to `from`, or as far as there is anything.
    pub(crate) fn select(&self, from: i64) -> Selection {
        let first = self.periods.iter().rposition(|p| p.has_base && p.start <= from).unwrap_or(0);
        let mut s = Selection { other_events: self.dropped_events.clone(), ..Selection::default() };
        s.cut_by_size = self.cut_by_size && self.periods.get(first).is_some_and(|p| p.start > from);
        for (i, p) in self.periods.iter().enumerate() {
            if i < first {
                add(&mut s.other_events, &p.base_events);
                add(&mut s.other_events, &p.row_events);
                continue;
            }
            if i == first {
                (s.first_period, s.start, s.at_start) = (p.number, p.start, p.at_start.clone());
            }
            let wanted = |segment: &&SegmentInfo| i == first || !ONCE.contains(&segment.table.as_str());
            s.segments.extend(p.base.iter().filter(wanted).cloned());
            for (table, n) in &p.base_events {
                let into = if i == first || !ONCE.contains(table) { &mut s.events } else { &mut s.other_events };
                *into.entry(table).or_default() += n;
            }
            s.segments.extend(p.rows.iter().cloned());
            add(&mut s.events, &p.row_events);
        }
        s
    }

    /// Events in segments that were dropped, by table.
    pub(crate) fn dropped_events(&self) -> &Events {
        &self.dropped_events
    }

    /// Rows that left the ring, by table.
    pub(crate) fn dropped_rows(&self) -> &BTreeMap<String, u64> {
        &self.dropped_rows
    }
}

fn add(sum: &mut Events, more: &Events) {
    for (table, n) in more {
        *sum.entry(table).or_default() += n;
    }
}

/// `after` less `before`, without zeros.
pub(crate) fn grown(after: &Events, before: &Events) -> Events {
    let by = |(table, n): (&&'static str, &u64)| (*table, n - before.get(table).copied().unwrap_or(0).min(*n));
    after.iter().map(by).filter(|(_, n)| *n > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 100;

    fn segment(table: &str, n: usize) -> SegmentInfo {
        SegmentInfo { table: table.to_owned(), file: format!("{n:06}.parquet"), rows: 10, bytes: BYTES }
    }

    /// Periods of 10 with a base where `bases` says so, each with one segment of faults.
    fn periods(bases: &[bool]) -> Periods {
        let mut p = Periods::default();
        for (i, base) in bases.iter().enumerate() {
            let with = base.then(|| {
                let rows = vec![segment("maps", i), segment("process_events", i)];
                (rows, Events::from([("maps", 10), ("process_events", 10)]))
            });
            p.open(i as i64 * 10, Vec::new(), with);
            p.close(vec![segment("faults", i)], Events::from([("faults", 100)]));
        }
        p
    }

    fn tables(s: &Selection) -> Vec<(&str, usize)> {
        ["faults", "maps", "process_events"].map(|t| (t, s.segments.iter().filter(|x| x.table == t).count())).to_vec()
    }

    #[test]
    fn a_dump_goes_back_to_the_last_base_before_its_window() {
        let p = periods(&[true, false, true, false, true]);
        let s = p.select(35);
        assert_eq!((s.start, s.first_period), (20, 2));
        // The base at 40 adds its maps, not its processes.
        assert_eq!(tables(&s), [("faults", 3), ("maps", 2), ("process_events", 1)]);
        assert_eq!(s.events, Events::from([("faults", 300), ("maps", 20), ("process_events", 10)]));
        assert_eq!(s.other_events, Events::from([("faults", 200), ("maps", 10), ("process_events", 20)]));
        assert_eq!(p.select(-5).start, 0);
    }

    #[test]
    fn what_is_older_than_the_window_goes_up_to_a_base() {
        let mut p = periods(&[true, false, true, false, true]);
        assert!(p.expire(19, u64::MAX).is_empty(), "the window begins in the second period");
        let gone = p.expire(25, u64::MAX);
        assert_eq!(gone.len(), 4);
        assert_eq!((p.oldest(), p.select(0).start, p.select(0).cut_by_size), (2, 20, false));
        assert_eq!(p.dropped_rows()["faults"], 20);
        // Kept and dropped add up whatever is selected.
        let s = p.select(45);
        let all = s.events["faults"] + s.other_events["faults"];
        assert_eq!(all, 500);
    }

    #[test]
    fn the_size_cuts_before_the_time_does() {
        let mut p = periods(&[true, true, true]);
        assert_eq!(p.bytes(), 9 * BYTES);
        p.expire(0, 6 * BYTES);
        assert_eq!(p.bytes(), 6 * BYTES);
        assert!(p.select(0).cut_by_size);
        assert!(!p.select(15).cut_by_size, "that window is whole");
        p.expire(0, 1);
        assert_eq!(p.bytes(), 3 * BYTES, "the open period stays");
        assert!(p.needs_base(0, 1));
        assert!(!p.needs_base(0, 10 * BYTES));
        assert!(p.needs_base(25, 10 * BYTES));
    }

    #[test]
    fn growth_has_no_zeros() {
        let after = Events::from([("a", 5), ("b", 3)]);
        assert_eq!(grown(&after, &Events::from([("a", 5), ("b", 1)])), Events::from([("b", 2)]));
    }
}
