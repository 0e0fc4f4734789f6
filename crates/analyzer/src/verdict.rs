//! From findings to the one sentence at the top. "Not memory" and "unexplained" are answers like any other.

use crate::context::Joined;
use crate::model::{Confidence, Finding, Ledger, LedgerCategory, Verdict, VerdictKind};
use crate::{rules, units};

/// A cause that takes less of the window than this does not make the headline by its cost.
const HEADLINE_SHARE: f64 = 0.2;
/// More than this unexplained, and nothing else may be claimed as the cause of the window's length.
const UNEXPLAINED_SHARE: f64 = 0.5;

/// Chooses the verdict. `findings` are ranked already.
pub(crate) fn choose(joined: &Joined, findings: &[Finding]) -> Verdict {
    let ledger = joined.ledgers.iter().find(|l| l.total_ns() > 0);
    if let Some(f) = findings.iter().find(|f| f.code != rules::NOT_MEMORY && makes_headline(f)) {
        return from_finding(VerdictKind::Memory, f);
    }
    if let Some(f) = findings.iter().find(|f| f.code == rules::NOT_MEMORY) {
        return from_finding(VerdictKind::NotMemory, f);
    }
    match ledger {
        Some(l) if share(l, LedgerCategory::Unexplained) >= UNEXPLAINED_SHARE => unexplained(joined, l),
        Some(l) => nothing(joined, l, findings),
        None => no_window(joined),
    }
}

fn makes_headline(f: &Finding) -> bool {
    match &f.cost {
        Some(cost) => cost.share() >= HEADLINE_SHARE,
        // A refused mapping costs no time, it breaks something.
        None => f.confidence >= Confidence::Medium,
    }
}

fn share(ledger: &Ledger, category: LedgerCategory) -> f64 {
    ledger.wall_ns(category) as f64 / ledger.total_ns().max(1) as f64
}

fn from_finding(kind: VerdictKind, f: &Finding) -> Verdict {
    let mut action = sentence(&f.fix.what);
    match (f.fix.gain_low_ns, f.fix.gain_high_ns, &f.cost) {
        (Some(low), Some(high), Some(cost)) => {
            action.push_str(&format!(
                " The {} gets shorter by {} and keeps {}{}.",
                cost.window,
                units::duration_range(low, high),
                units::duration_range(cost.left_ns(high), cost.left_ns(low)),
                if cost.recording_ns * 50 > cost.window_ns {
                    format!(" (another {} of it was the recording itself)", units::duration(cost.recording_ns))
                } else {
                    String::new()
                }
            ));
        }
        _ => {}
    }
    if let Some(caution) = &f.fix.caution {
        action.push(' ');
        action.push_str(&sentence(caution));
    }
    let headline = match kind {
        VerdictKind::NotMemory => format!("Not memory: {}.", f.claim),
        _ => sentence(&f.claim),
    };
    Verdict {
        kind,
        sentence: headline,
        action: Some(action),
        confidence: f.confidence,
        confidence_reasons: f.confidence_reasons.clone(),
        finding: Some(f.code.clone()),
    }
}

fn unexplained(joined: &Joined, ledger: &Ledger) -> Verdict {
    let ns = ledger.wall_ns(LedgerCategory::Unexplained);
    let mut reasons = vec![format!(
        "the rest of the {} is accounted for: {}",
        ledger.window.name,
        units::duration(ledger.total_ns() - ns)
    )];
    reasons.extend(joined.trust.not_checked.iter().cloned());
    Verdict {
        kind: VerdictKind::Unexplained,
        sentence: format!(
            "Unexplained: {} of {} of the {} passed without a page fault, memory call, file or network call or running thread that was recorded.",
            units::duration(ns),
            units::duration(ledger.total_ns()),
            ledger.window.name
        ),
        action: Some(
            "Record again with every probe (`mtrace doctor` says what this host allows), and look at what the capture cannot see: the hypervisor, CPU throttling, the other side of a connection."
                .to_owned(),
        ),
        confidence: if joined.trust.losses.is_empty() { Confidence::Medium } else { Confidence::Low },
        confidence_reasons: reasons,
        finding: None,
    }
}

/// A window that no single cause dominates.
fn nothing(joined: &Joined, ledger: &Ledger, findings: &[Finding]) -> Verdict {
    let memory = rules::memory_ns(ledger);
    let mut sentence = format!(
        "No memory cause dominates: page faults, memory calls and stop-the-world took {} of {} of the {}.",
        units::duration(memory),
        units::duration(ledger.total_ns()),
        ledger.window.name
    );
    if let Some(f) = findings.first() {
        sentence.push_str(&format!(" The largest finding: {}.", f.claim));
    }
    let (confidence, reason) = if joined.trust.losses.is_empty() && joined.capture.complete {
        (Confidence::Medium, "everything that was asked for was recorded, and nothing was lost")
    } else {
        (Confidence::Low, "the recording has losses or did not come to its end")
    };
    Verdict {
        kind: VerdictKind::NothingFound,
        sentence,
        action: None,
        confidence,
        confidence_reasons: vec![reason.to_owned()],
        finding: None,
    }
}

fn no_window(joined: &Joined) -> Verdict {
    Verdict {
        kind: VerdictKind::NothingFound,
        sentence: "Nothing to explain: the capture holds no events of a target.".to_owned(),
        action: Some(
            "Check that the target ran during the recording, and what `mtrace doctor` says about this host.".to_owned(),
        ),
        confidence: Confidence::Low,
        confidence_reasons: joined.trust.damage.clone(),
        finding: None,
    }
}

/// First letter in upper case (a name in code begins with a backtick and stays), full stop at the end.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let mut out: String = match chars.next() {
        Some(c) => c.to_uppercase().chain(chars).collect(),
        None => return String::new(),
    };
    if !out.ends_with(['.', '!', '?']) {
        out.push('.');
    }
    out
}
