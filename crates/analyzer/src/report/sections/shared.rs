//! Pieces that several sections show.

use crate::model::{CodeLocation, Confidence, LedgerCategory, StackFrame, TouchKind};
use crate::report::escape::Html;
use crate::report::format;

/// Frames of a stack that are shown; the rest is in report.json.
const STACK_FRAMES: usize = 40;

/// A place in the code as `function (file:line)`, with the full names as tooltip.
pub(super) fn location(loc: &CodeLocation) -> Html {
    let mut full = loc.function.clone();
    if let Some(file) = &loc.file {
        full.push_str(", ");
        full.push_str(file);
        if let Some(line) = loc.line {
            full.push_str(&format!(":{line}"));
        }
    }
    if let Some(module) = &loc.module {
        full.push_str(", ");
        full.push_str(module);
    }
    Html::name_with_title(&format::location(loc), &full)
}

/// A place, or words for an unknown one.
pub(super) fn location_or(loc: Option<&CodeLocation>, unknown: &str) -> Html {
    loc.map_or_else(|| Html::text(unknown), location)
}

/// The `max` heaviest items, in the order that they have.
pub(super) fn heaviest<T>(all: &[T], max: usize, weight: impl Fn(&T) -> u64) -> Vec<&T> {
    let mut by_weight: Vec<usize> = (0..all.len()).collect();
    by_weight.sort_by_key(|i| std::cmp::Reverse(weight(&all[*i])));
    by_weight.truncate(max);
    by_weight.sort_unstable();
    by_weight.into_iter().map(|i| &all[i]).collect()
}

/// A name, or a sentence that marks its names itself.
pub(super) fn name_or_sentence(text: &str) -> Html {
    if text.contains('`') { Html::rich(text) } else { Html::name(text) }
}

/// A stack for a list.
#[derive(Default)]
pub(super) struct StackView {
    /// Above it.
    pub title: String,
    /// Beside the title.
    pub weight: String,
    /// Innermost first.
    pub frames: Vec<FrameView>,
    /// Frames not shown.
    pub more: usize,
}

/// A frame of a stack.
pub(super) struct FrameView {
    /// Function.
    pub function: Html,
    /// File and line; empty if unknown.
    pub at: String,
    /// Style: the frame to change, the runtime, or neither.
    pub class: &'static str,
    /// Words beside it.
    pub note: &'static str,
}

/// Prepares a stack; frames of `marked` are pointed out, those of the runtimes step back.
pub(super) fn stack(title: &str, weight: &str, frames: &[StackFrame], marked: Option<&CodeLocation>) -> StackView {
    // Recursion: only the innermost frame is the one to change.
    let marked_at = marked.and_then(|m| frames.iter().position(|f| f.function == m.function));
    let view = |(i, f): (usize, &StackFrame)| FrameView {
        function: Html::name_with_title(format::short_function(&f.function), &f.function),
        at: format::file_line(f.file.as_deref(), f.line).unwrap_or_default(),
        class: match (marked_at == Some(i), is_runtime(&f.function)) {
            (true, _) => "here",
            (false, true) => "runtime",
            (false, false) => "",
        },
        note: match (marked_at == Some(i), f.inlined) {
            (true, _) => "← here",
            (false, true) => "inlined",
            (false, false) => "",
        },
    };
    StackView {
        title: title.to_owned(),
        weight: weight.to_owned(),
        frames: frames.iter().take(STACK_FRAMES).enumerate().map(view).collect(),
        more: frames.len().saturating_sub(STACK_FRAMES),
    }
}

fn is_runtime(function: &str) -> bool {
    ["runtime.", "runtime/", "internal/runtime/", "__libc_", "_start", "entry_SYSCALL"]
        .iter()
        .any(|prefix| function.starts_with(prefix))
}

/// Class that colours a category.
pub(super) fn category_class(c: LedgerCategory) -> &'static str {
    match c {
        LedgerCategory::GcStw => "c-stw",
        LedgerCategory::Faults => "c-faults",
        LedgerCategory::MemoryCalls => "c-calls",
        LedgerCategory::FileIo => "c-file",
        LedgerCategory::Network => "c-net",
        LedgerCategory::Throttled => "c-throttled",
        LedgerCategory::WaitingForClient => "c-client",
        LedgerCategory::WaitingForCpu => "c-cpuwait",
        LedgerCategory::Recorder => "c-recorder",
        LedgerCategory::OnCpu => "c-cpu",
        LedgerCategory::Unexplained => "c-unexplained",
    }
}

/// What a category holds.
pub(super) fn category_help(c: LedgerCategory) -> &'static str {
    match c {
        LedgerCategory::GcStw => "the language runtime had stopped the world",
        LedgerCategory::Faults => "the critical thread was in a page fault",
        LedgerCategory::MemoryCalls => "the critical thread was in mmap, munmap, mremap, brk, mprotect or madvise",
        LedgerCategory::FileIo => "the critical thread was in a file call",
        LedgerCategory::Network => "the critical thread was in a network call or waited for the other side",
        LedgerCategory::Throttled => "the kernel had put the critical thread to sleep because memory is short",
        LedgerCategory::WaitingForClient => "nothing to do yet: before the first client came",
        LedgerCategory::WaitingForCpu => "the critical thread could have run and had no CPU",
        LedgerCategory::Recorder => "the recorder's own probes: this time is not there when nobody records",
        LedgerCategory::OnCpu => "the critical thread ran its own code",
        LedgerCategory::Unexplained => {
            "the critical thread slept for a reason that was not recorded, or was not seen at all"
        }
    }
}

/// Name of a kind of fault.
pub(super) fn touch_kind(k: TouchKind) -> &'static str {
    match k {
        TouchKind::AnonFirstTouch => "first touch, anonymous",
        TouchKind::AnonRefault => "refault, anonymous (given back before)",
        TouchKind::CopyOnWrite => "copy on write",
        TouchKind::FileMinor => "file, in page cache",
        TouchKind::FileMajor => "file, read from disk (major)",
        TouchKind::AnonMajor => "anonymous, major (swap or retried)",
        TouchKind::Unknown => "in no known mapping",
    }
}

/// A confidence as a sign beside its word: the sign alone says nothing to a screen reader, the word does.
pub(super) fn confidence_sign(c: Confidence) -> &'static str {
    match c {
        Confidence::Low => "●○○",
        Confidence::Medium => "●●○",
        Confidence::High => "●●●",
    }
}
