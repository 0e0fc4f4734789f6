//! Words about resident memory that the page and the ticket share. Names stand between backticks, for who escapes them.

use super::escape::shorten;
use super::{format, summary};
use crate::model::{Analysis, CollapseTable, ResidentGroup, ResidentMemory};

/// Mappings named in one line.
const NAMED: usize = 3;
/// Words for failures in one line.
const WORDS: usize = 4;
/// Longest name within a line.
const NAME_CHARS: usize = 60;

/// `+288 MiB`, `−1 MiB`, `0 B`; a dash if it is not known.
pub(super) fn growth(bytes: Option<i64>) -> String {
    let Some(bytes) = bytes else { return "–".to_owned() };
    let sign = match bytes {
        0 => "",
        1.. => "+",
        _ => "−",
    };
    format!("{sign}{}", format::bytes(bytes.unsigned_abs()))
}

/// What grew, for people: a file by its last component.
fn name(g: &ResidentGroup) -> String {
    let short = |name: &str| format!("`{}`", shorten(name, NAME_CHARS).replace('`', "'"));
    match (g.name.as_str(), &g.mapped_by) {
        // Ours: what has no name.
        (of @ ("anonymous" | "shared anonymous"), Some(by)) => {
            format!("{of} memory mapped by {}", short(&format::location(by)))
        }
        (of @ ("anonymous" | "shared anonymous"), None) => format!("{of} memory"),
        (path, _) if path.starts_with('/') => short(format::file_name(path)),
        (name, _) => short(name),
    }
}

/// `12 MiB at +0.01 s, 300 MiB at +3.2 s (+288 MiB)`.
pub(super) fn totals(m: &ResidentMemory, zero: i64) -> String {
    let at = |bytes, (ts, _): (i64, i64)| format!("{} at {}", format::bytes(bytes), format::offset(ts, zero));
    let end = at(m.end.rss_bytes, m.end_ns);
    match (m.begin, m.begin_ns) {
        (Some(begin), Some(time)) => {
            format!("{}, {end} ({})", at(begin.rss_bytes, time), growth(Some(m.end.growth_since(&begin))))
        }
        _ => format!("{end}; read once, so that growth is not known"),
    }
}

/// The main process in one line; null if it was not read.
pub(super) fn line(analysis: &Analysis) -> Option<String> {
    let f = &analysis.facts;
    let pid = f.ledgers.first().map(|l| l.pid).or_else(|| f.resident.first().map(|m| m.pid))?;
    let m = f.resident.iter().find(|m| m.pid == pid)?;
    let grown: Vec<String> = (m.groups.iter().filter(|g| g.growth_bytes > Some(0)).take(NAMED))
        .map(|g| format!("{} {}", name(g), growth(g.growth_bytes)))
        .collect();
    let mut out = totals(m, summary::zero_ns(analysis));
    if !grown.is_empty() {
        out.push_str(&format!("; most of it {}", grown.join(", ")));
    }
    for c in f.collapses.iter().filter(|c| c.pid == pid && c.collapsed > 0) {
        out.push_str(&format!("; {}", collapsed(c)));
    }
    Some(out)
}

/// What was collapsed, and what could not be.
pub(super) fn collapses(c: &CollapseTable) -> Vec<String> {
    let mut out = Vec::new();
    if c.collapsed > 0 {
        out.push(format!("{}{}", collapsed(c), cost(c)));
    }
    if !c.failed.is_empty() {
        let sum = c.failed.iter().fold(0_u64, |sum, (_, n)| sum.saturating_add(*n));
        let words = c
            .failed
            .iter()
            .take(WORDS)
            .map(|(word, n)| format!("`{}` {}", shorten(word, NAME_CHARS).replace('`', "'"), format::count(*n)));
        out.push(format!(
            "{} came to nothing: {}",
            format::counted(sum, "attempt to collapse a range", "attempts to collapse a range"),
            words.collect::<Vec<_>>().join(", ")
        ));
    }
    out
}

fn collapsed(c: &CollapseTable) -> String {
    let mut out = format::counted(c.collapsed, "range was", "ranges were") + " collapsed into huge pages";
    match c.by_khugepaged {
        0 => {}
        n if n == c.collapsed => out.push_str(" by khugepaged"),
        n => out.push_str(&format!(" ({} of them by khugepaged)", format::count(n))),
    }
    out.push_str(&format!(", {} became resident without a fault", format::bytes(c.new_bytes)));
    if c.new_file_bytes > 0 {
        out.push_str(&format!(", the page cache grew by {}", format::bytes(c.new_file_bytes)));
    }
    if c.unknown > 0 {
        out.push_str(&format!(" (of {} that is not known)", format::count(c.unknown)));
    }
    out
}

fn cost(c: &CollapseTable) -> String {
    if c.copy_ns == 0 {
        return String::new();
    }
    let (sum, max) = (format::duration(c.copy_ns), format::duration(c.copy_max_ns));
    format!("; mmap_lock was held for writing while they were copied, {sum} in all, {max} at most")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_has_a_sign_and_the_unknown_a_dash() {
        let said: Vec<String> = [Some(288 << 20), Some(-(1 << 20)), Some(0), None].into_iter().map(growth).collect();
        assert_eq!(said, ["+288 MiB", "−1 MiB", "0 B", "–"]);
    }

    #[test]
    fn what_was_collapsed_says_by_whom_and_what_it_cost() {
        let mut c = CollapseTable { collapsed: 8, new_bytes: 16 << 20, ..CollapseTable::default() };
        assert_eq!(collapses(&c), ["8 ranges were collapsed into huge pages, 16 MiB became resident without a fault"]);
        (c.by_khugepaged, c.unknown, c.copy_ns, c.copy_max_ns) = (8, 1, 3_000_000, 1_000_000);
        c.failed = vec![("page_lru".to_owned(), 2), ("page`null".to_owned(), 1)];
        assert_eq!(
            collapses(&c),
            [
                "8 ranges were collapsed into huge pages by khugepaged, 16 MiB became resident without a fault (of 1 that \
                 is not known); mmap_lock was held for writing while they were copied, 3 ms in all, 1 ms at most",
                "3 attempts to collapse a range came to nothing: `page_lru` 2, `page'null` 1",
            ]
        );
    }
}
