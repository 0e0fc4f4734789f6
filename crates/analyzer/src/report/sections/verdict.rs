//! The first screen: what happened, what to do, how sure, what else, what was ruled out.

use askama::Template;

use super::{Context, Section, ledger, shared};
use crate::model::{Analysis, Finding, RuledOut, VerdictKind};
use crate::report::escape::Html;
use crate::report::{Error, format, summary};

pub(super) const SECTION: Section = Section { id: "verdict", title: "Verdict", render };

#[derive(Template)]
#[template(path = "sections/verdict.html")]
struct View {
    class: &'static str,
    sign: &'static str,
    label: &'static str,
    confidence: &'static str,
    confidence_sign: &'static str,
    sentence: Html,
    about: Option<Html>,
    action: Option<Html>,
    location: Option<Html>,
    gain: Option<String>,
    left: Option<String>,
    caution: Option<Html>,
    reasons: Vec<Html>,
    bar: Option<ledger::Bar>,
    runners_up: Vec<Runner>,
    ruled_out: Vec<Cause>,
    not_checked: Vec<Cause>,
}

struct Runner {
    anchor: String,
    title: String,
    cost: Option<String>,
    confidence: &'static str,
    location: Option<Html>,
}

struct Cause {
    cause: Html,
    why: Html,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let analysis = context.analysis;
    let verdict = &analysis.verdict;
    let main = summary::main_finding(analysis);
    let (class, sign) = look(verdict.kind);
    let view = View {
        class,
        sign,
        label: summary::kind_label(verdict.kind),
        confidence: format::confidence(verdict.confidence),
        confidence_sign: shared::confidence_sign(verdict.confidence),
        sentence: Html::rich(&summary::sentence(verdict)),
        about: summary::about(analysis).as_deref().map(Html::rich),
        action: verdict.action.as_deref().map(Html::rich),
        location: main.and_then(|f| f.location.as_ref()).map(shared::location),
        gain: main.and_then(|f| summary::gain(&f.fix)),
        left: main.and_then(summary::left_after_fix),
        caution: main
            .and_then(|f| f.fix.caution.as_deref())
            .filter(|c| !summary::says(verdict.action.as_deref(), c))
            .map(Html::sentence),
        reasons: verdict.confidence_reasons.iter().map(|r| Html::rich(r)).collect(),
        bar: analysis.facts.ledgers.first().map(|l| ledger::bar(l, 30)),
        runners_up: runners(analysis),
        ruled_out: summary::ruled_out(analysis).map(cause).collect(),
        not_checked: summary::not_checked(analysis).map(cause).collect(),
    };
    Ok(Html::from_markup(view.render()?))
}

/// Every kind is an answer and looks like one; the sign says it without the colour.
fn look(kind: VerdictKind) -> (&'static str, &'static str) {
    match kind {
        VerdictKind::Memory | VerdictKind::MemoryInPart => ("memory", "▲"),
        VerdictKind::NotMemory => ("not-memory", "◆"),
        VerdictKind::Unexplained => ("unexplained", "?"),
        VerdictKind::NothingFound => ("nothing", "✓"),
    }
}

fn runners(analysis: &Analysis) -> Vec<Runner> {
    let first = usize::from(summary::main_finding(analysis).is_some());
    let ranked = summary::ranked(analysis).into_iter().enumerate();
    ranked.skip(first).map(|(i, f)| runner(i + 1, f)).collect()
}

fn runner(rank: usize, finding: &Finding) -> Runner {
    Runner {
        anchor: super::findings::anchor(rank),
        title: finding.title.clone(),
        cost: summary::cost(finding),
        confidence: format::confidence(finding.confidence),
        location: finding.location.as_ref().map(shared::location),
    }
}

fn cause(r: &RuledOut) -> Cause {
    Cause { cause: Html::rich(&r.cause), why: Html::rich(&r.why) }
}
