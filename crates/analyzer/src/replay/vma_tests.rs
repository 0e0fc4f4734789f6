use proptest::prelude::*;

use super::*;

fn anon(start: u64, end: u64) -> Vma {
    unowned(start, end, Perms::from_prot(3, false), Backing::Anonymous, 0, 0)
}

/// Recomputes everything that is kept incrementally.
fn check(map: &AddressMap) {
    let parts: Vec<Vma> = map.iter().copied().collect();
    let mut gaps = Gaps::default();
    let mut end = USER_START;
    let mut joined = 0;
    for (i, v) in parts.iter().enumerate() {
        assert!(v.start < v.end && (i == 0 || parts[i - 1].end <= v.start), "parts overlap");
        gaps.add(v.start - end);
        end = v.end;
        joined += u64::from(i > 0 && parts[i - 1].joins(v));
    }
    gaps.add(USER_END - end);
    assert_eq!(map.gaps().classes(), gaps.classes());
    assert_eq!(map.gaps().histogram(), gaps.histogram());
    assert_eq!(map.vmas(), parts.len() as u64 - joined);
    assert_eq!(map.mapped_bytes(), parts.iter().map(Vma::bytes).sum::<u64>());
    let accessible = parts.iter().filter(|v| v.perms.is_accessible()).map(Vma::bytes).sum::<u64>();
    assert_eq!(map.accessible_bytes(), accessible);
    assert_eq!(map.data_bytes(), parts.iter().filter(|v| v.is_data()).map(Vma::bytes).sum::<u64>());
}

#[test]
fn a_hole_splits_and_a_fill_merges() {
    let mut map = AddressMap::default();
    map.insert(anon(0x10_0000, 0x20_0000));
    assert_eq!(map.vmas(), 1);
    let removed = map.remove(0x14_0000, 0x15_0000);
    assert_eq!((removed.len(), map.vmas(), map.counts.splits, map.counts.deaths), (1, 2, 2, 0));
    map.insert(anon(0x14_0000, 0x15_0000));
    assert_eq!((map.vmas(), map.counts.merges), (1, 2));
    map.remove(0, u64::MAX);
    assert_eq!((map.vmas(), map.mapped_bytes(), map.counts.deaths), (0, 0, 3));
    check(&map);
}

#[test]
fn the_offset_follows_a_split_of_a_file_mapping() {
    let mut map = AddressMap::default();
    map.insert(unowned(0x10_0000, 0x14_0000, Perms::from_letters("r--p"), Backing::File(0), 0x5000, 0));
    map.remove(0x11_0000, 0x12_0000);
    assert_eq!(map.find(0x12_0000).unwrap().offset, 0x2_5000);
    check(&map);
}

#[test]
fn a_stack_that_grows_eats_its_gap() {
    let mut map = AddressMap::default();
    let mut stack = anon(0x7000_0000, 0x7002_0000);
    stack.backing = Backing::Stack;
    map.insert(stack);
    map.grow_down(0x7000_0000, 0x6fff_0000);
    assert_eq!(map.find(0x6fff_0000).unwrap().bytes(), 0x3_0000);
    check(&map);
}

#[test]
fn letters_and_bits_are_the_same() {
    for letters in ["rwxp", "r--s", "---p", "r-xp", "-w-p"] {
        assert_eq!(Perms::from_letters(letters).to_string(), letters);
    }
}

proptest! {
    #[test]
    fn what_is_kept_incrementally_equals_what_is_recomputed(
        ops in proptest::collection::vec((0_u8..4, 0_u64..64, 1_u64..16, 0_u32..4), 1..120)
    ) {
        let mut map = AddressMap::default();
        let mut pages = vec![None; 96];
        for (op, start, len, prot) in ops {
            let (s, e) = (0x100_0000 + start * 4096, 0x100_0000 + (start + len) * 4096);
            match op {
                0 | 1 => {
                    map.insert(unowned(s, e, Perms::from_prot(prot, false), Backing::Anonymous, 0, 0));
                    pages[start as usize..(start + len) as usize].fill(Some(prot));
                }
                2 => {
                    map.remove(s, e);
                    pages[start as usize..(start + len) as usize].fill(None);
                }
                _ => {
                    map.update(s, e, |v| v.perms = v.perms.with_prot(prot));
                    pages[start as usize..(start + len) as usize]
                        .iter_mut()
                        .for_each(|p| *p = p.map(|_| prot));
                }
            }
            check(&map);
        }
        for (i, p) in pages.iter().enumerate() {
            let found = map.find(0x100_0000 + i as u64 * 4096 + 5).map(|v| v.perms);
            prop_assert_eq!(found, p.map(|p| Perms::from_prot(p, false)));
        }
    }
}
