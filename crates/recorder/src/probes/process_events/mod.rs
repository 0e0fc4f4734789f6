//! exec, fork, threads, names, moves between cgroups and exit; and, in the kernel, who is a target: children are added
//! when they are forked, others when they begin to fit the rule ([`rule`]).
//!
//! Own counters: 0 `child_not_followed`: there was no room for another target (see `Rule::room`).

pub(crate) mod rule;

use super::wire::{Header, Reader, Undecodable, c_string, event, user_dev};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

/// `MT_OTHER_CGROUP`, `MT_OTHER_HIERARCHY`.
const OTHER_CGROUP: u32 = 1;
const OTHER_HIERARCHY: u32 = 2;

pub(crate) struct ProcessEvents;

/// What happened; see `ProcessEventKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LifeKind {
    Exec,
    Fork,
    Vfork,
    Thread,
    Name,
    ThreadExit,
    Exit,
    Cgroup,
}

/// `struct mt_process`. The session makes the row of it, because it adds what /proc knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) ts: i64,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) kind: LifeKind,
    /// Parent or creator, where the kind has one.
    pub(crate) parent: u32,
    pub(crate) status: i32,
    /// Number of the new address space; 0 if there is none.
    pub(crate) image: u32,
    pub(crate) comm: String,
    /// `Exec`: the executable and where its code begins.
    pub(crate) program: Option<Executable>,
    /// `Exec`: what was given to execve(2); `Cgroup`: the group that it was moved to.
    pub(crate) path: Option<String>,
    /// Process and thread as they are numbered in the process's own pid namespace.
    pub(crate) ns_pid: u32,
    pub(crate) ns_tid: u32,
    /// `Fork`, `Vfork`: the child is not in its parent's cgroup; `Cgroup`: it is not the one to call the process by.
    pub(crate) other_cgroup: bool,
}

/// What was executed: enough to place its code, should /proc/PID be gone before it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Executable {
    /// Address of the first executable segment (`mm->start_code`).
    pub(crate) code_addr: u64,
    pub(crate) dev: u64,
    pub(crate) inode: u64,
}

impl Probe for ProcessEvents {
    fn name(&self) -> &'static str {
        "process_events"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["process_events"]
    }

    fn hides(&self) -> &'static str {
        "children (they are not followed), execs, threads, names and exits"
    }

    fn events(&self) -> &'static [u16] {
        &[event::PROCESS]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("process_events")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[
                Variant {
                    name: "tp_btf",
                    programs: &[
                        Program::trace("process_exec"),
                        Program::trace("process_fork"),
                        Program::trace("process_exit"),
                        Program::trace("process_rename"),
                        Program::trace("process_moved"),
                    ],
                    lacks: None,
                },
                Variant {
                    name: "tp_btf without cgroups",
                    programs: &[
                        Program::trace("process_exec"),
                        Program::trace("process_fork"),
                        Program::trace("process_exit"),
                        Program::trace("process_rename"),
                    ],
                    lacks: Some("moves between cgroups: a process that is moved into a wanted one is not noticed"),
                },
            ]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["child_not_followed"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let life = Life::decode(bytes)?;
        sink.life.push(life);
        Ok(())
    }
}

impl Life {
    fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut r = Reader::new(bytes);
        let Header { detail, pid, tid, aux, ts, .. } = r.header()?;
        let kind = match detail {
            1 => LifeKind::Exec,
            2 => LifeKind::Fork,
            3 => LifeKind::Vfork,
            4 => LifeKind::Thread,
            5 => LifeKind::Name,
            6 => LifeKind::ThreadExit,
            7 => LifeKind::Exit,
            8 => LifeKind::Cgroup,
            _ => return Err(Undecodable),
        };
        let (status, image) = (r.i32()?, r.u32()?);
        let comm = c_string(r.bytes(16)?);
        let executable = Executable { code_addr: r.u64()?, dev: user_dev(r.u64()?), inode: r.u64()? };
        let program = (kind == LifeKind::Exec).then_some(executable);
        let path_bytes = r.u32()? as usize;
        let other_cgroup = r.u32()? & (OTHER_CGROUP | OTHER_HIERARCHY) != 0;
        let (ns_pid, ns_tid) = (r.u32()?, r.u32()?);
        let path = r.bytes(path_bytes)?;
        let path = (!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned());
        let parent = aux;
        Ok(Self { ts, pid, tid, kind, parent, status, image, comm, program, path, ns_pid, ns_tid, other_cgroup })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::header;
    use super::*;

    fn record(detail: u16, path: &[u8]) -> Vec<u8> {
        let mut b = header(event::PROCESS, detail, 5, 5, 4, 1000);
        b.extend(256i32.to_le_bytes());
        b.extend(3u32.to_le_bytes());
        b.extend(b"a\xffb\0garbage\0....");
        for field in [0x401000_u64, 8 << 20 | 1, 77] {
            b.extend(field.to_le_bytes());
        }
        b.extend((path.len() as u32).to_le_bytes());
        for field in [1u32, 7, 8] {
            b.extend(field.to_le_bytes());
        }
        b.extend(path);
        b
    }

    #[test]
    fn an_exec_has_its_path_and_a_name_that_is_not_utf_8_is_kept_as_far_as_it_goes() {
        let life = Life::decode(&record(1, b"./run")).unwrap();
        assert_eq!(
            (life.kind, life.path.as_deref(), life.comm.as_str()),
            (LifeKind::Exec, Some("./run"), "a\u{fffd}b")
        );
        assert_eq!((life.status, life.image, life.parent), (256, 3, 4));
        assert_eq!((life.ns_pid, life.ns_tid, life.other_cgroup), (7, 8, true));
        assert_eq!(life.program, Some(Executable { code_addr: 0x40_1000, dev: 0x801, inode: 77 }));
    }

    #[test]
    fn short_records_and_unknown_kinds_are_errors() {
        let whole = record(1, b"./run");
        for n in 0..whole.len() {
            assert!(Life::decode(&whole[..n]).is_err(), "{n} bytes");
        }
        assert!(Life::decode(&record(99, b"")).is_err());
    }
}
