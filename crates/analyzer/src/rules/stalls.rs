//! What the rules about stalls share.

use crate::model::{Ledger, NamedStack, Stalls};
use crate::units;

/// Stacks shown.
const MAX_STACKS: usize = 3;

/// Puts those with most time on the critical path of the window first; the answer is all of that time.
pub(super) fn rank<T>(groups: &mut [&T], ledger: &Ledger, of: impl Fn(&T) -> &Stalls) -> i64 {
    groups.sort_by_key(|g| std::cmp::Reverse(of(g).in_window(ledger)));
    groups.iter().map(|g| of(g).in_window(ledger)).sum()
}

/// Why they are no finding: there are none, or they took too little of the window.
pub(super) fn too_few<'a>(all: impl Iterator<Item = &'a Stalls> + Clone, ledger: &Ledger, none: &str) -> String {
    let wall_ns = all.clone().map(|s| s.in_window(ledger)).sum();
    match Stalls::total(all) {
        (0, ..) => none.to_owned(),
        (count, sum_ns, _) => format!(
            "{} in the capture, {} in all, {} of the {} on its critical path",
            units::counted(count, "time", "times"),
            units::duration(sum_ns),
            units::duration(wall_ns),
            ledger.window.name
        ),
    }
}

/// The stacks of the first ones.
pub(super) fn stacks<'a>(title: &str, all: impl Iterator<Item = &'a Stalls>) -> Vec<NamedStack> {
    all.take(MAX_STACKS)
        .map(|s| NamedStack {
            title: title.to_owned(),
            weight: format!("{}, {}", units::counted(s.count, "time", "times"), units::duration(s.sum_ns)),
            frames: s.stack.clone(),
        })
        .collect()
}
