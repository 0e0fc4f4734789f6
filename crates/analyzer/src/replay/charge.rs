//! What a fault did, from its error code, the mapping that it hit and the history of the page.

use mtrace_formats::tables::error_code;

use super::pages::Before;
use super::vma::{Backing, Vma};
use crate::load::{FaultRow, NONE};
use crate::model::TouchKind;

/// The kind of a fault on `vma`.
pub(crate) fn kind(fault: &FaultRow, vma: &Vma, before: Before) -> TouchKind {
    let code = if fault.error_code == NONE { 0 } else { fault.error_code };
    let present_write = error_code::PROTECTION | error_code::WRITE;
    if code & present_write == present_write && !vma.perms.is_shared() {
        return TouchKind::CopyOnWrite;
    }
    match (is_memory(vma.backing), fault.major, before) {
        (true, true, _) => TouchKind::AnonMajor,
        (true, false, Before::Released(_)) => TouchKind::AnonRefault,
        // Two threads that touch a page at the same time both fault.
        (true, false, _) => TouchKind::AnonFirstTouch,
        (false, true, _) => TouchKind::FileMajor,
        (false, false, _) => TouchKind::FileMinor,
    }
}

fn is_memory(backing: Backing) -> bool {
    backing.is_anonymous()
}

#[cfg(test)]
mod tests {
    use super::super::vma::{Perms, unowned};
    use super::*;

    fn fault(code: u32, major: bool) -> FaultRow {
        FaultRow {
            ts: 0,
            dur: 1,
            addr: 0,
            count: 1,
            stride: 0,
            span: 0,
            shape: NONE,
            pid: 1,
            tid: 1,
            weight: 1,
            stack: NONE,
            error_code: code,
            map_stack: NONE,
            mapping: NONE,
            release: NONE,
            touch: TouchKind::Unknown,
            major,
        }
    }

    #[test]
    fn every_kind_has_its_signature() {
        let vma = |backing, letters| unowned(0, 4096, Perms::from_letters(letters), backing, 0, 0);
        let anon = vma(Backing::Anonymous, "rw-p");
        let file = vma(Backing::File(9), "rw-p");
        let shared = vma(Backing::File(9), "rw-s");
        let new = Before::Untouched;
        let cases = [
            (6, false, &anon, new, TouchKind::AnonFirstTouch),
            (4, false, &anon, new, TouchKind::AnonFirstTouch),
            (6, false, &anon, Before::Released(1), TouchKind::AnonRefault),
            (7, false, &anon, Before::Touched, TouchKind::CopyOnWrite),
            (6, true, &anon, new, TouchKind::AnonMajor),
            (NONE, false, &anon, new, TouchKind::AnonFirstTouch),
            (4, false, &file, new, TouchKind::FileMinor),
            (4, true, &file, new, TouchKind::FileMajor),
            (7, false, &file, Before::Touched, TouchKind::CopyOnWrite),
            (7, false, &shared, Before::Touched, TouchKind::FileMinor),
        ];
        for (code, major, vma, before, expected) in cases {
            assert_eq!(kind(&fault(code, major), vma, before), expected, "{code} {major} {before:?}");
        }
    }
}
