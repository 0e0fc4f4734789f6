//! Targets that end.

use super::Ended;

pub(super) struct Watch {
    failed_only: bool,
    fired: Option<(i64, String)>,
}

impl Watch {
    pub(super) fn new(failed_only: bool) -> Self {
        Self { failed_only, fired: None }
    }

    /// The first one since the last [`Watch::take`] counts. Children of a target come and go as they like.
    pub(super) fn ended(&mut self, ended: Ended) {
        if !ended.asked_for || self.failed_only && ended.status.is_none_or(|s| s == 0) {
            return;
        }
        let how = match ended.status {
            None => "nobody saw how".to_owned(),
            Some(s) if s & 0x7f != 0 => format!("killed by signal {}", s & 0x7f),
            Some(s) => format!("exit status {}", s >> 8 & 0xff),
        };
        self.fired.get_or_insert((ended.ts, format!("process {} ended: {how}", ended.pid)));
    }

    pub(super) fn take(&mut self) -> Option<(i64, String)> {
        self.fired.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_a_target_fires_and_a_childs_does_not() {
        let ended = |status, asked_for| Ended { ts: 7, pid: 5, status, asked_for };
        let said = |failed_only, e| {
            let mut watch = Watch::new(failed_only);
            watch.ended(e);
            watch.take().map(|(_, what)| what)
        };
        assert_eq!(said(true, ended(Some(0), true)), None);
        assert_eq!(said(true, ended(None, true)), None);
        assert_eq!(said(true, ended(Some(0x300), false)), None);
        assert_eq!(said(true, ended(Some(0x300), true)).as_deref(), Some("process 5 ended: exit status 3"));
        assert_eq!(said(true, ended(Some(9), true)).as_deref(), Some("process 5 ended: killed by signal 9"));
        assert_eq!(said(false, ended(Some(0), true)).as_deref(), Some("process 5 ended: exit status 0"));
    }
}
