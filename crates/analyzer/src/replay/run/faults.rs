//! Charging faults to the mappings that they hit.

use std::ops::Range;

use mtrace_formats::tables::error_code;

use super::{Driver, EXEC_PREPARATION_NS, MAX_BEFORE_EXEC};
use crate::load::{FaultRow, NONE};
use crate::model::TouchKind;
use crate::replay::charge;
use crate::replay::files::FileTable;
use crate::replay::gaps::{MAX_STACK, Space};
use crate::replay::mm::Mm;
use crate::replay::pages::Before;
use crate::replay::vma::{Backing, Perms, unowned};

/// Steps that charging a page counts as.
const WORK_PER_PAGE: u64 = 10;

/// What the replay says of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Charge {
    touch: TouchKind,
    map_stack: u32,
    mapping: u32,
    release: u32,
}

impl Driver<'_> {
    /// The faults of a run are charged page by page; where that changes, the run is cut.
    pub(super) fn fault(&mut self, i: usize) {
        let f = self.faults[i];
        let at = self.ensure(f.pid);
        let mut piece = (i, self.charge(at, &f, 0));
        let mut start = 0;
        // Each page is looked up in the map and marked as touched.
        self.work += u64::from(f.count) * WORK_PER_PAGE;
        for k in 1..f.count {
            let charge = self.charge(at, &f, k);
            if charge != piece.1 && self.faults.len() < self.max_rows {
                self.settle(piece.0, piece.1);
                piece = (self.cut(piece.0, k - start), charge);
                start = k;
            }
        }
        self.settle(piece.0, piece.1);
    }

    /// What the k-th fault of a row did; `None` if no mapping is known there.
    fn charge(&mut self, at: usize, f: &FaultRow, k: u32) -> Option<Charge> {
        let mm = self.mms.get_mut(at).and_then(Option::as_mut)?;
        let addr = f.addr_of(k, self.space.page_shift);
        if mm.map.find(addr).is_none() {
            grow_stack(mm, addr);
        }
        if mm.map.find(addr).is_none() && is_uprobes_page(f, self.space) {
            let Range { start, end } = self.space.last_page();
            let backing = self.files.special("[uprobes]");
            mm.map.insert(unowned(start, end, Perms::from_letters("--xp"), backing, 0, f.ts));
        }
        let vma = mm.map.find(addr).copied()?;
        let before = mm.pages.touch(mm.page(addr));
        let release = if let Before::Released(by) = before { by } else { NONE };
        Some(Charge {
            touch: charge::kind(f, &vma, before),
            map_stack: vma.owner,
            mapping: FileTable::name_id(vma.backing),
            release,
        })
    }

    fn settle(&mut self, i: usize, charge: Option<Charge>) {
        let Some(c) = charge else {
            self.fault_before_exec(i);
            return;
        };
        let f = &mut self.faults[i];
        (f.touch, f.map_stack, f.mapping, f.release) = (c.touch, c.map_stack, c.mapping, c.release);
    }

    /// Leaves the first `head` faults in a row and puts the rest into a new one.
    fn cut(&mut self, i: usize, head: u32) -> usize {
        let whole = self.faults[i];
        let (mut a, mut b) = whole.split(head, self.space.page_shift);
        if let Some(shape) = self.shapes.get(whole.shape as usize).copied() {
            let (of_a, of_b) = shape.split(head, whole.count);
            self.shapes[whole.shape as usize] = of_a;
            a.shape = whole.shape;
            b.shape = self.shapes.len() as u32;
            self.shapes.push(of_b);
        }
        self.faults[i] = a;
        self.faults.push(b);
        self.faults.len() - 1
    }

    /// The kernel touches the new image (its stack, its bss) before it announces the exec: such a fault belongs to
    /// the image that is about to begin.
    fn fault_before_exec(&mut self, i: usize) {
        let f = self.faults[i];
        self.faults_before_exec += 1;
        if self.faults_before_exec > MAX_BEFORE_EXEC {
            return;
        }
        let Some(exec) = self
            .execs
            .get(&f.pid)
            .and_then(|e| e.iter().copied().find(|t| *t >= f.ts))
            .filter(|t| *t - f.ts < EXEC_PREPARATION_NS)
        else {
            return;
        };
        let (snapshots, _) = self.snapshots_of_image(f.pid, exec);
        let Some(s) = snapshots.iter().find(|s| s.is_exact()) else { return };
        let maps = self.maps;
        let rows = &maps[s.rows.clone()];
        let below = rows.partition_point(|r| r.start_addr <= f.addr);
        let row = below.checked_sub(1).map(|i| &rows[i]).filter(|r| f.addr < r.end_addr);
        let Some(row) = row else { return };
        let backing = self.files.of_map(row);
        let perms = Perms::from_letters(&row.perms);
        let vma = unowned(row.start_addr, row.end_addr, perms, backing, row.offset_bytes, exec);
        let f = &mut self.faults[i];
        f.touch = charge::kind(f, &vma, Before::Untouched);
        f.mapping = FileTable::name_id(backing);
    }
}

/// The kernel maps the page of the recorder's own uprobes without a call, as high as it can (`xol_add_vma`,
/// kernel/events/uprobes.c), and the first instruction that runs in it faults.
fn is_uprobes_page(f: &FaultRow, space: Space) -> bool {
    f.error_code != NONE && f.error_code & error_code::FETCH != 0 && space.last_page().contains(&f.addr)
}

/// The stack of the main thread grows down by faults, without a call.
fn grow_stack(mm: &mut Mm, addr: u64) {
    let Some(above) = mm.map.above(addr).filter(|v| v.backing == Backing::Stack).copied() else { return };
    if above.end - addr <= MAX_STACK {
        let new_start = mm.page(addr) << mm.page_shift;
        mm.map.grow_down(above.start, new_start);
    }
}
