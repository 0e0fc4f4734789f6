//! A session's processes turn out to run a language runtime.

use mtrace_formats::tables::RuntimeKind;

use super::super::Session;
use super::super::processes::Came;
use super::Found;

impl Session<'_> {
    /// Attaches the probes of the language runtimes to what the process runs.
    pub(in crate::session) fn look_for_runtimes(&mut self, pid: u32, how: Came) {
        for found in self.runtimes.look_at(&mut self.probes, pid, how != Came::Running) {
            self.note_runtime(pid, &found, how);
        }
    }

    /// A process has loaded a JVM's library.
    pub(in crate::session) fn jvm_loaded(&mut self, pid: u32) {
        if let Some(found) = self.runtimes.library_mapped(&mut self.probes, pid) {
            self.note_runtime(pid, &found, Came::Running);
        }
    }

    fn note_runtime(&mut self, pid: u32, found: &Found, how: Came) {
        // A JVM loads its library long after its exec.
        let late = how == Came::Running || (how == Came::Exec && found.kind == RuntimeKind::Go);
        if found.new && late {
            let (what, table) = match found.kind {
                RuntimeKind::Go => ("the probes of the Go runtime", "gc_events"),
                RuntimeKind::Jvm => ("the probes of the JVM", "jvm_events"),
            };
            self.problem(format!(
                "{what} of process {pid} were attached while it ran: collections before this moment are not in {table}"
            ));
        }
        let mut sink = self.sink.borrow_mut();
        if found.kind == RuntimeKind::Go && found.version.as_deref().is_some_and(super::has_stw_reason) {
            sink.has_stw_reason.insert(pid);
        }
        if self.processes.is_new_runtime(pid, found.kind) {
            super::settings_of(pid, found).into_iter().for_each(|r| sink.push(r));
        }
        if found.kind == RuntimeKind::Go
            && let Some(t) = self.processes.entry(pid)
        {
            t.go_version = found.version.clone();
        }
    }
}
