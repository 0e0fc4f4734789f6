//! report.md: the answer as it goes into a ticket. No inline HTML, one screen.

use std::fmt::Write;

use crate::model::{Analysis, Finding, Ledger, LedgerRow, RuledOut};
use crate::report::escape::{markdown, markdown_code, markdown_rich, shorten};
use crate::report::format;
use crate::report::resident;
use crate::report::summary::{self, TrustSummary};

/// Findings listed.
const FINDINGS: usize = 3;
/// Causes listed as ruled out, and as not checked.
const CAUSES: usize = 6;
/// Longest explanation in a list.
const WHY_CHARS: usize = 240;

/// The ticket: verdict first, then the main window's ledger, the top findings, what was ruled out, trust, links.
pub fn render_markdown(analysis: &Analysis) -> String {
    let mut out = String::new();
    push_verdict(&mut out, analysis);
    if let Some(trigger) = summary::trigger(analysis) {
        let _ = writeln!(out, "**Trigger:** {}\n", markdown_rich(&trigger));
    }
    if let Some(ledger) = analysis.facts.ledgers.first() {
        push_ledger(&mut out, ledger);
    }
    if let (Some(requests), Some(slowest)) = (summary::requests(analysis), summary::slowest_request(analysis)) {
        let _ = writeln!(out, "**Requests:** {}; slowest: {}\n", markdown(&requests), markdown(&slowest));
    }
    if let Some(resident) = resident::line(analysis) {
        let _ = writeln!(out, "**Resident memory:** {}\n", markdown_rich(&resident));
    }
    push_findings(&mut out, analysis);
    push_causes(&mut out, "Ruled out", &summary::ruled_out(analysis).collect::<Vec<_>>());
    push_causes(&mut out, "Not checked, so still possible", &summary::not_checked(analysis).collect::<Vec<_>>());
    push_footer(&mut out, analysis);
    out
}

fn push_verdict(out: &mut String, analysis: &Analysis) {
    let v = &analysis.verdict;
    let _ = writeln!(
        out,
        "### mtrace: {} (confidence {})\n",
        summary::kind_label(v.kind),
        format::confidence(v.confidence)
    );
    let _ = writeln!(out, "**{}**\n", markdown_rich(&summary::sentence(v)));
    if let Some(action) = &v.action {
        let _ = writeln!(out, "**Do:** {}{}\n", markdown_rich(action), where_and_gain(summary::main_finding(analysis)));
    }
    if let Some(about) = summary::about(analysis) {
        let _ = writeln!(out, "**About:** {}\n", markdown_rich(&about));
    }
    if !v.confidence_reasons.is_empty() {
        let reasons: Vec<String> = v.confidence_reasons.iter().map(|r| markdown_rich(r)).collect();
        let _ = writeln!(out, "**Confidence {}:** {}\n", format::confidence(v.confidence), reasons.join("; "));
    }
}

fn where_and_gain(finding: Option<&Finding>) -> String {
    let Some(finding) = finding else { return String::new() };
    let mut out = String::new();
    if let Some(location) = &finding.location {
        let _ = write!(out, " — at {}", markdown_code(&format::location(location)));
    }
    if let Some(gain) = summary::gain(&finding.fix) {
        let _ = write!(out, " — gains {gain}");
    }
    out
}

fn push_ledger(out: &mut String, ledger: &Ledger) {
    let total = ledger.total_ns();
    let _ = writeln!(
        out,
        "| {}: {} | time | share | largest part |\n|---|--:|--:|---|",
        markdown(&ledger.window.name),
        format::duration(total)
    );
    let (rows, small) = summary::worth_a_line(ledger);
    for row in rows {
        let top = row.top.as_deref().map(markdown_rich_or_code).unwrap_or_default();
        push_row(out, &ledger_name(row), row.wall_ns, total, &top);
    }
    if !small.is_empty() {
        let names: Vec<String> = small.iter().map(|r| ledger_name(r)).collect();
        push_row(out, &names.join(", "), small.iter().map(|r| r.wall_ns).sum(), total, "");
    }
    out.push('\n');
}

fn push_row(out: &mut String, name: &str, wall_ns: i64, total_ns: i64, top: &str) {
    let share = format::share(wall_ns as f64, total_ns as f64);
    let _ = writeln!(out, "| {name} | {} | {share} | {top} |", format::duration(wall_ns));
}

fn ledger_name(row: &LedgerRow) -> String {
    match row.count {
        Some(n) => format!("{} ({})", format::category(row.category), format::count(n)),
        None => format::category(row.category).to_owned(),
    }
}

/// The largest part is a name, or a sentence that marks its names itself.
fn markdown_rich_or_code(text: &str) -> String {
    if text.contains('`') { markdown_rich(text) } else { markdown_code(text) }
}

fn push_findings(out: &mut String, analysis: &Analysis) {
    let findings = summary::ranked(analysis);
    for (i, finding) in findings.iter().take(FINDINGS).enumerate() {
        let _ = write!(out, "{}. **{}** ({})", i + 1, markdown(&finding.title), facts(finding));
        let _ = writeln!(out, "{}", claim_and_fix(finding, analysis));
    }
    if findings.len() > FINDINGS {
        let _ = writeln!(out, "\nand {} more in the page", findings.len() - FINDINGS);
    }
    if !findings.is_empty() {
        out.push('\n');
    }
}

fn facts(finding: &Finding) -> String {
    let mut facts = vec![markdown_code(&finding.code)];
    facts.extend(summary::cost(finding).map(|c| markdown(&c)));
    facts.push(format!("confidence {}", format::confidence(finding.confidence)));
    facts.join(", ")
}

/// What the lines above have not said already.
fn claim_and_fix(finding: &Finding, analysis: &Analysis) -> String {
    let verdict = &analysis.verdict;
    let is_main = summary::main_finding(analysis).is_some_and(|m| std::ptr::eq(m, finding));
    let mut parts = Vec::new();
    if !is_main && !summary::says(Some(&verdict.sentence), &finding.claim) {
        parts.push(markdown_rich(&finding.claim));
    }
    if let Some(location) = finding.location.as_ref().filter(|_| !is_main) {
        parts.push(format!("at {}", markdown_code(&format::location(location))));
    }
    if !summary::says(verdict.action.as_deref(), &finding.fix.what) {
        parts.push(format!("fix: {}", markdown_rich(&finding.fix.what)));
    }
    if let Some(gain) = summary::gain(&finding.fix).filter(|_| !is_main) {
        parts.push(format!("gains {gain}"));
    }
    if let Some(caution) = finding.fix.caution.as_deref().filter(|c| !summary::says(verdict.action.as_deref(), c)) {
        parts.push(format!("caution: {}", markdown_rich(caution)));
    }
    let parts: Vec<&str> = parts.iter().map(|p| p.trim_end_matches('.')).collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join("; ")) }
}

fn push_causes(out: &mut String, title: &str, causes: &[&RuledOut]) {
    if causes.is_empty() {
        return;
    }
    let _ = writeln!(out, "**{title}:**\n");
    for cause in causes.iter().take(CAUSES) {
        let _ = writeln!(out, "- {}: {}", markdown(&cause.cause), markdown_rich(&shorten(&cause.why, WHY_CHARS)));
    }
    if causes.len() > CAUSES {
        let _ = writeln!(out, "- and {} more in the page", causes.len() - CAUSES);
    }
    out.push('\n');
}

fn push_footer(out: &mut String, analysis: &Analysis) {
    let _ = writeln!(out, "**Trust:** {}\n", markdown(&TrustSummary::new(analysis).line()));
    let mut links = vec!["[report.html](report.html)".to_owned(), "[report.json](report.json)".to_owned()];
    for graph in analysis.facts.flame_graphs.iter().filter(|g| summary::has_weight(g)) {
        links.push(format!("[{}]({})", markdown(&graph.title), summary::svg_file(graph)));
    }
    let _ = writeln!(out, "{}", links.join(" · "));
}
