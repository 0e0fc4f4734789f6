//! A command that is run again and again, such as a health check.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(super) struct Watch {
    line: String,
    every_ns: i64,
    next: i64,
    running: Option<Child>,
    /// It failed at its last run: a failure that goes on is no new one.
    failing: bool,
}

impl Watch {
    pub(super) fn new(line: &str, every: Duration) -> Self {
        let every_ns = i64::try_from(every.as_nanos()).unwrap_or(i64::MAX / 2);
        Self { line: line.to_owned(), every_ns, next: 0, running: None, failing: false }
    }

    /// How it ended, if it fails now and did not before. Never waits.
    pub(super) fn poll(&mut self, now: i64) -> Option<String> {
        if let Some(child) = &mut self.running {
            let ended = child.try_wait().ok()??;
            self.running = None;
            self.next = now.saturating_add(self.every_ns);
            let began = !ended.success() && !self.failing;
            self.failing = !ended.success();
            return began.then(|| format!("`{}`: {ended}", self.line));
        }
        if now >= self.next {
            let quiet = |c: &mut Command| c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            self.running = quiet(Command::new("sh").arg("-c").arg(&self.line)).ok();
            self.next = now.saturating_add(self.every_ns);
        }
        None
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next answer of a whole run.
    fn run(watch: &mut Watch, now: i64) -> Option<String> {
        assert_eq!(watch.poll(now), None);
        for _ in 0..500 {
            std::thread::sleep(Duration::from_millis(10));
            let said = watch.poll(now);
            if watch.running.is_none() {
                return said;
            }
        }
        panic!("the command does not end");
    }

    #[test]
    fn only_the_beginning_of_a_failure_fires() {
        let Ok(dir) = tempfile::tempdir() else { panic!("no directory") };
        let flag = dir.path().join("healthy");
        let mut watch = Watch::new(&format!("test -e '{}'", flag.display()), Duration::from_secs(1));
        let at = |n: i64| n * 2_000_000_000;
        assert!(run(&mut watch, at(1)).is_some_and(|said| said.contains("exit status: 1")));
        assert_eq!(watch.poll(at(1)), None, "not yet");
        assert_eq!(run(&mut watch, at(2)), None, "still failing");
        assert!(std::fs::write(&flag, "").is_ok());
        assert_eq!(run(&mut watch, at(3)), None);
        assert!(std::fs::remove_file(&flag).is_ok());
        assert!(run(&mut watch, at(4)).is_some());
    }
}
