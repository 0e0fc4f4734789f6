//! The evidence of each finding: numbers with their queries, stacks, look-alikes, what speaks against it, the fix.

use askama::Template;

use super::shared::{self, StackView};
use super::{Context, Section};
use crate::model::Finding;
use crate::report::escape::Html;
use crate::report::render::chart::{Segment, stacked_bar};
use crate::report::{Error, format, summary};

pub(super) const SECTION: Section = Section { id: "findings", title: "Evidence", render };

/// Findings that are unfolded when the page opens.
const OPEN: usize = 2;

#[derive(Template)]
#[template(path = "sections/findings.html")]
struct View {
    findings: Vec<FindingView>,
}

struct FindingView {
    anchor: String,
    open: bool,
    rank: usize,
    title: String,
    code: String,
    pid: u32,
    claim: Html,
    cost: Option<String>,
    bar: Option<Html>,
    confidence: &'static str,
    confidence_sign: &'static str,
    reasons: Vec<Html>,
    location: Option<Html>,
    fix: Html,
    gain: Option<String>,
    left: Option<String>,
    caution: Option<Html>,
    evidence: Vec<EvidenceView>,
    look_alikes: Vec<LookAlikeView>,
    against: Vec<Html>,
    stacks: Vec<StackView>,
}

struct EvidenceView {
    what: Html,
    value: Html,
    query: Option<Html>,
}

struct LookAlikeView {
    cause: Html,
    observation: Html,
    excluded: bool,
}

/// Anchor of the finding with this rank; the code alone is not enough, a rule can have several findings.
pub(super) fn anchor(rank: usize) -> String {
    format!("finding-{rank}")
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let analysis = context.analysis;
    let findings = summary::ranked(analysis).into_iter().enumerate().map(|(i, f)| finding(i, f)).collect();
    Ok(Html::from_markup(View { findings }.render()?))
}

fn finding(index: usize, f: &Finding) -> FindingView {
    FindingView {
        anchor: anchor(index + 1),
        open: index < OPEN,
        rank: index + 1,
        title: f.title.clone(),
        code: f.code.clone(),
        pid: f.pid,
        claim: Html::sentence(&f.claim),
        cost: summary::cost(f),
        bar: cost_bar(f),
        confidence: format::confidence(f.confidence),
        confidence_sign: shared::confidence_sign(f.confidence),
        reasons: f.confidence_reasons.iter().map(|r| Html::rich(r)).collect(),
        location: f.location.as_ref().map(shared::location),
        fix: Html::sentence(&f.fix.what),
        gain: summary::gain(&f.fix),
        left: summary::left_after_fix(f),
        caution: f.fix.caution.as_deref().map(Html::sentence),
        evidence: f
            .evidence
            .iter()
            .map(|e| EvidenceView {
                what: Html::rich(&e.what),
                value: Html::rich(&e.value),
                query: e.query.as_deref().map(Html::block),
            })
            .collect(),
        look_alikes: f
            .look_alikes
            .iter()
            .map(|l| LookAlikeView {
                cause: Html::rich(&l.cause),
                observation: Html::rich(&l.observation),
                excluded: l.excluded,
            })
            .collect(),
        against: f.against.iter().map(|a| Html::rich(a)).collect(),
        stacks: f.stacks.iter().map(|s| shared::stack(&s.title, &s.weight, &s.frames, f.location.as_ref())).collect(),
    }
}

/// Cost within its window, with the bounds of what the fix gains.
fn cost_bar(f: &Finding) -> Option<Html> {
    let cost = f.cost.as_ref()?;
    let wall = cost.wall_ns.clamp(0, cost.window_ns.max(0));
    let segments = [
        Segment {
            class: "cost",
            labels: vec![format::duration(wall)],
            title: format!("charged to this cause: {}", format::duration(wall)),
            value: wall as f64,
        },
        Segment {
            class: "rest",
            labels: vec!["rest of the window".to_owned()],
            title: format!("rest of the window: {}", format::duration(cost.window_ns - wall)),
            value: (cost.window_ns - wall) as f64,
        },
    ];
    Some(stacked_bar(&segments, 22, &summary::cost(f)?))
}
