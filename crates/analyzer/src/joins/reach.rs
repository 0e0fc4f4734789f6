//! From when on each thread may have had a request in hand: what its reader woke since, directly or through others.
//!
//! It is more than really had it (a reader wakes workers for other requests, too), so a thread that was not reached did
//! certainly not have it, and one that was perhaps did.

use std::collections::BTreeMap;

use super::activity::Threads;
use super::sleeps::Waker;

/// When each thread was reached first.
pub(crate) struct Reach {
    /// Null: it is not known where the work began, so that anybody may have had it at any time.
    since: Option<BTreeMap<u32, i64>>,
}

impl Reach {
    /// Follows the wake-ups within a window from the thread with which it begins.
    pub(crate) fn new(threads: &Threads, (start, end): (i64, i64), start_tid: Option<u32>) -> Self {
        let Some(first) = start_tid else { return Self { since: None } };
        let mut since = BTreeMap::from([(first, start)]);
        for (ts, from, to) in wake_ups(threads, start, end) {
            // Woken by nobody knows whom: by one that has it, perhaps.
            let brought = from.is_none_or(|from| since.get(&from).is_some_and(|reached| *reached <= ts));
            if brought {
                since.entry(to).or_insert(ts);
            }
        }
        Self { since: Some(since) }
    }

    /// True if the thread may have had the request at `t`.
    pub(crate) fn has(&self, tid: u32, t: i64) -> bool {
        self.since.as_ref().is_none_or(|since| since.get(&tid).is_some_and(|reached| *reached <= t))
    }
}

/// Wake-ups and creations of threads in order of time: when, by whom, whom.
fn wake_ups(threads: &Threads, start: i64, end: i64) -> Vec<(i64, Option<u32>, u32)> {
    let mut out = Vec::new();
    for (tid, thread) in threads {
        let born = thread.creator.filter(|(ts, _)| (start..=end).contains(ts));
        out.extend(born.map(|(ts, by)| (ts, Some(by), *tid)));
        let first = thread.sleeps.partition_point(|s| s.until < start);
        for s in thread.sleeps[first..].iter().take_while(|s| s.until <= end) {
            match s.waker {
                Waker::Thread(by) => out.push((s.until, Some(by), *tid)),
                Waker::Unknown => out.push((s.until, None, *tid)),
                Waker::Process(_) | Waker::Interrupt => {}
            }
        }
    }
    out.sort_unstable();
    out
}

#[cfg(test)]
mod tests {
    use super::super::activity::Thread;
    use super::super::sleeps::{Sleep, WaitKind};
    use super::*;

    #[allow(clippy::field_reassign_with_default)] // one of its fields is private
    fn woken(by: &[(i64, Waker)]) -> Thread {
        let sleep = |(until, waker): &(i64, Waker)| Sleep {
            start: until - 1,
            until: *until,
            waker: *waker,
            kind: WaitKind::Other,
        };
        let mut thread = Thread::default();
        thread.sleeps = by.iter().map(sleep).collect();
        thread
    }

    #[test]
    fn who_was_woken_before_its_waker_had_the_request_does_not_have_it() {
        let threads = Threads::from([
            (1, woken(&[])),
            (2, woken(&[(20, Waker::Thread(1))])),
            (3, woken(&[(10, Waker::Thread(2)), (30, Waker::Interrupt)])),
            (4, woken(&[(25, Waker::Thread(2))])),
            (5, woken(&[(15, Waker::Unknown)])),
        ]);
        let reach = Reach::new(&threads, (5, 100), Some(1));
        let since = |tid| (0..200).find(|t| reach.has(tid, *t));
        assert_eq!([1, 2, 3, 4, 5].map(since), [Some(5), Some(20), None, Some(25), Some(15)]);
        assert!(Reach::new(&threads, (5, 100), None).has(3, 0), "nobody knows where a start begins");
    }
}
