//! Where a function of the kernel is, from `/proc/kallsyms`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;

const KALLSYMS: &str = "/proc/kallsyms";

/// The addresses of the first of these functions that the kernel itself has; `None` if it has none of them, or hides
/// addresses (kptr_restrict).
pub(crate) fn first_of(names: &[&str]) -> Option<Range<u64>> {
    find(BufReader::new(File::open(KALLSYMS).ok()?), names)
}

/// From the symbol to the next one: the table knows no sizes, and is not sorted between modules.
fn find(mut table: impl BufRead, names: &[&str]) -> Option<Range<u64>> {
    let mut starts = Vec::new();
    let mut found = vec![None; names.len()];
    let mut line = Vec::new();
    while table.read_until(b'\n', &mut line).ok()? > 0 {
        let text = std::str::from_utf8(&line).unwrap_or_default();
        let mut words = text.split_whitespace();
        let start = words.next().and_then(|w| u64::from_str_radix(w, 16).ok()).filter(|a| *a != 0);
        if let (Some(start), Some("t" | "T" | "w" | "W"), Some(symbol)) = (start, words.next(), words.next()) {
            starts.push(start);
            if let Some(slot) = names.iter().position(|n| *n == symbol).filter(|_| words.next().is_none()) {
                found[slot] = Some(start);
            }
        }
        line.clear();
    }
    let start = found.into_iter().flatten().next()?;
    let end = starts.into_iter().filter(|a| *a > start).min()?;
    Some(start..end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"ffff1000 T first\nffff3000 t third\nffff2000 t second\nffff2100 d no_code\n\
        ffff0500 t second\t[module]\nffff4000 T last\n";

    #[test]
    fn a_function_reaches_to_the_next_one() {
        assert_eq!(find(TABLE, &["absent", "second", "first"]).unwrap(), 0xffff_2000..0xffff_3000);
        assert_eq!(find(TABLE, &["no_code"]), None);
        // The last one has no end.
        assert_eq!(find(TABLE, &["last"]), None);
    }

    #[test]
    fn hidden_addresses_are_no_function() {
        assert_eq!(find(&b"0000000000000000 T first\n0000000000000000 T second\n"[..], &["first"]), None);
    }

    #[test]
    fn the_running_kernel_is_read() {
        // Hidden from an ordinary user; then the answer is none, and nothing else can be said.
        if let Some(range) = first_of(&["schedule"]) {
            assert!(range.end - range.start < 1 << 20, "{range:x?}");
        }
    }
}
