//! The answer in a terminal, right after `mtrace analyze`.

use crate::model::{Analysis, VerdictKind};
use crate::report::escape::terminal as safe;
use crate::report::format;
use crate::report::summary::{self, TrustSummary};

/// Longest line; longer sentences are wrapped.
const COLUMNS: usize = 100;
/// Width of the labels at the left.
const LABEL: usize = 12;
/// Lines of the sentence and of what to do; the page has the rest.
const LINES: usize = 4;
/// Lines of everything else.
const SHORT: usize = 2;
const BOLD: &str = "\u{1b}[1m";
const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

/// The verdict in about a dozen lines. Control characters of names are shown, not sent.
pub fn terminal(analysis: &Analysis, colour: bool) -> String {
    let v = &analysis.verdict;
    let mut out = Lines { text: String::new(), colour };
    let answer = format!("{} (confidence {})", summary::kind_label(v.kind), format::confidence(v.confidence));
    out.headline(v.kind, &answer, &summary::about_in_short(analysis).unwrap_or_default());
    out.entry("", &summary::sentence(v), LINES);
    let trigger = summary::trigger(analysis).unwrap_or_default();
    // The screen has room for one of them in full; the page has both.
    out.entry("do", v.action.as_deref().unwrap_or_default(), if trigger.is_empty() { LINES } else { SHORT });
    let main = summary::main_finding(analysis);
    out.entry("where", &main.and_then(|f| f.location.as_ref()).map(format::location).unwrap_or_default(), SHORT);
    out.entry("gain", &main.and_then(|f| summary::gain(&f.fix)).unwrap_or_default(), SHORT);
    out.ledger(analysis);
    out.entry("trigger", &trigger, 1);
    out.entry("requests", &summary::requests(analysis).unwrap_or_default(), 1);
    out.causes(analysis);
    out.entry("confidence", &v.confidence_reasons.join("; "), SHORT);
    let trust = TrustSummary::new(analysis);
    // The good news has been the reason of the confidence; the bad must not be overlooked.
    out.entry("trust", &if trust.bad.is_empty() { trust.good } else { trust.bad }.join("; "), SHORT);
    out.text
}

struct Lines {
    text: String,
    colour: bool,
}

impl Lines {
    /// The answer, and as much as fits beside it of what it is about.
    fn headline(&mut self, kind: VerdictKind, text: &str, about: &str) {
        let code = match kind {
            VerdictKind::Memory | VerdictKind::MemoryInPart => "\u{1b}[1;31m",
            VerdictKind::NotMemory => "\u{1b}[1;34m",
            VerdictKind::Unexplained => "\u{1b}[1;33m",
            VerdictKind::NothingFound => "\u{1b}[1;32m",
        };
        self.paint(code, text);
        let room = COLUMNS.saturating_sub(text.chars().count() + 2);
        if let Some(line) = wrap(&safe(about), room, 1).first().filter(|l| !l.is_empty()) {
            self.paint(DIM, &format!("  {line}"));
        }
        self.text.push('\n');
    }

    /// An entry with its label in front; nothing if there is no text.
    fn entry(&mut self, label: &str, text: &str, max_lines: usize) {
        if text.is_empty() {
            return;
        }
        let (indent, style) = if label.is_empty() { (0, BOLD) } else { (LABEL, "") };
        let lines = wrap(&safe(text), COLUMNS - indent, max_lines);
        for (i, line) in lines.iter().enumerate() {
            match i {
                _ if indent == 0 => {}
                0 => self.paint(DIM, &format!("{label:<LABEL$}")),
                _ => self.text.push_str(&" ".repeat(LABEL)),
            }
            self.paint(style, line);
            self.text.push('\n');
        }
    }

    fn paint(&mut self, style: &str, text: &str) {
        if self.colour && !style.is_empty() {
            self.text.extend([style, text, RESET]);
        } else {
            self.text.push_str(text);
        }
    }

    fn causes(&mut self, analysis: &Analysis) {
        let titles = |items: Vec<&str>| items.join(", ");
        let also: Vec<String> = summary::runners_up(analysis)
            .iter()
            .map(|f| match summary::cost(f) {
                Some(cost) => format!("{}: {cost}", f.title),
                None => f.title.clone(),
            })
            .collect();
        let ruled_out = titles(summary::ruled_out(analysis).map(|r| r.cause.as_str()).collect());
        let not_checked = titles(summary::not_checked(analysis).map(|r| r.cause.as_str()).collect());
        self.entry("also", &also.join("; "), SHORT);
        self.entry("ruled out", &ruled_out, SHORT);
        self.entry("not checked", &not_checked, SHORT);
    }

    fn ledger(&mut self, analysis: &Analysis) {
        let Some(ledger) = analysis.facts.ledgers.first() else { return };
        let total = ledger.total_ns();
        let share = |ns: i64| format::share(ns as f64, total as f64);
        let (rows, small) = summary::worth_a_line(ledger);
        let mut rows: Vec<String> =
            rows.iter().map(|r| format!("{} {}", format::category(r.category), share(r.wall_ns))).collect();
        if !small.is_empty() {
            rows.push(format!("other {}", share(small.iter().map(|r| r.wall_ns).sum())));
        }
        self.entry("time", &format!("{}, {}: {}", ledger.window.name, format::duration(total), rows.join("; ")), SHORT);
    }
}

/// Breaks a text at blanks; what does not fit into the lines ends with `…`.
fn wrap(text: &str, width: usize, max_lines: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        for piece in pieces(word, width) {
            let current = lines.last_mut().map_or(0, |l| l.chars().count());
            if current > 0 && current + 1 + piece.chars().count() > width {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(&piece);
            }
        }
    }
    if lines.len() > max_lines {
        lines.truncate(max_lines);
        if let Some(last) = lines.last_mut() {
            last.push_str(" …");
        }
    }
    lines
}

/// A word longer than a line, in pieces.
fn pieces(word: &str, width: usize) -> Vec<String> {
    let chars: Vec<char> = word.chars().collect();
    chars.chunks(width.max(1)).map(|c| c.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_breaks_at_blanks_and_cuts_endless_words() {
        assert_eq!(wrap("aa bb cc", 5, 9), ["aa bb", "cc"]);
        assert_eq!(wrap("aaaaaaa b", 3, 9), ["aaa", "aaa", "a b"]);
        assert_eq!(wrap("a b c d", 1, 2), ["a", "b …"]);
    }
}
