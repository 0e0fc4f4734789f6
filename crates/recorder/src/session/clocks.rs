//! The wall clock beside the monotonic one: a pair for each time that it was set.

use mtrace_formats::capture::ClockPair;

/// Two clocks that are read one after the other differ by less; whoever sets a clock sets it by more.
const SET_NS: i64 = 1_000_000;
/// Times that a clock is set; beyond, the last one stands for all.
const MAX_CLOCKS: usize = 64;

/// Adds a pair to the first one and those before and after each setting. CLOCK_MONOTONIC is slewed together with the wall
/// clock, so their distance changes only when the latter is set.
pub(super) fn note(clocks: &mut Vec<ClockPair>, pair: ClockPair) {
    let distance = |c: &ClockPair| c.realtime_ns.saturating_sub(c.monotonic_ns);
    let is_set = |a: &ClockPair, b: &ClockPair| {
        distance(a).abs_diff(distance(b)) > (SET_NS + a.error_ns + b.error_ns).unsigned_abs()
    };
    let [.., before, last] = clocks.as_slice() else {
        clocks.push(pair);
        return;
    };
    let says_nothing_new = !is_set(before, last) && !is_set(last, &pair);
    if says_nothing_new || clocks.len() >= MAX_CLOCKS {
        clocks.pop();
    }
    clocks.push(pair);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(second: i64, offset_ns: i64) -> ClockPair {
        let monotonic_ns = second * 1_000_000_000;
        ClockPair { monotonic_ns, realtime_ns: monotonic_ns + offset_ns, error_ns: 200 }
    }

    #[test]
    fn the_first_and_the_last_pair_are_kept_and_those_around_a_setting() {
        let mut clocks = Vec::new();
        for second in 0..100 {
            let offset = if (40..60).contains(&second) { 3_600_000_000_000 } else { second % 3 * 100 };
            note(&mut clocks, pair(second, offset));
        }
        let seconds: Vec<i64> = clocks.iter().map(|c| c.monotonic_ns / 1_000_000_000).collect();
        assert_eq!(seconds, [0, 39, 40, 59, 60, 99]);
        for second in 100..300 {
            note(&mut clocks, pair(second, second * 1_000_000_000));
        }
        assert_eq!((clocks.len(), clocks.last().copied()), (MAX_CLOCKS, Some(pair(299, 299_000_000_000))));
    }
}
