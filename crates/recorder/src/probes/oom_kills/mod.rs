//! Victims of the OOM killer on the whole host.

use std::sync::OnceLock;

use mtrace_formats::tables::{OomKill, OomScope};

use super::wire::{Reader, Undecodable, c_string, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::host::page_bytes;
use crate::session::Sink;
use crate::symbols::kallsyms;

const LEVELS: usize = 8;
const NAME_BYTES: usize = 64;
const FRAMES: usize = 32;
/// What was not measured.
const NOT_MEASURED: u64 = u64::MAX;

pub(crate) struct OomKills;

impl Probe for OomKills {
    fn name(&self) -> &'static str {
        "oom_kills"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["oom_kills"]
    }

    fn hides(&self) -> &'static str {
        "whom the OOM killer chose, with which memory, and for whose limit"
    }

    fn events(&self) -> &'static [u16] {
        &[event::OOM_KILL]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("oom_kills")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[
                Variant { name: "tp_btf", programs: &[Program::trace("victim_task")], lacks: None },
                Variant {
                    name: "tp_btf, number only",
                    programs: &[Program::trace("victim_number")],
                    lacks: Some(
                        "before 6.8 the kernel tells the victim's number only: neither its memory nor its limit",
                    ),
                },
            ]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &[]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let decoded = decode(bytes, page_bytes())?;
        let stack_id = sink.stack_id(decoded.by_stack, self, 1);
        sink.push(OomKill { stack_id, scope: scope_of(&decoded.kernel_ips), ..decoded.row });
        Ok(())
    }
}

/// The kernel function that every kill for a memory cgroup passes through.
fn scope_of(kernel_ips: &[u64]) -> Option<OomScope> {
    static RANGE: OnceLock<Option<std::ops::Range<u64>>> = OnceLock::new();
    let range = RANGE.get_or_init(|| kallsyms::first_of(&["mem_cgroup_out_of_memory"])).as_ref()?;
    match kernel_ips {
        [] => None,
        ips if ips.iter().any(|ip| range.contains(ip)) => Some(OomScope::Memcg),
        _ => Some(OomScope::Global),
    }
}

struct Decoded {
    row: OomKill,
    by_stack: u64,
    kernel_ips: Vec<u64>,
}

/// Decodes `struct mt_oom_kill`.
fn decode(bytes: &[u8], page_bytes: u64) -> Result<Decoded, Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let (by_pid, by_tid) = (r.u32()?, r.u32()?);
    let (comm, by_comm) = (c_string(r.bytes(16)?), c_string(r.bytes(16)?));
    let by_stack = r.u64()?;
    let measured = |value: u64| (value != NOT_MEASURED).then_some(value);
    let mut pages = || Ok(measured(r.u64()?).map(|n| n.saturating_mul(page_bytes)));
    let (total_vm_bytes, anon_bytes, file_bytes) = (pages()?, pages()?, pages()?);
    let (shmem_bytes, swap_bytes) = (pages()?, pages()?);
    let page_table_bytes = measured(r.u64()?);
    let mut pages = || Ok(measured(r.u64()?).map(|n| n.saturating_mul(page_bytes)));
    let (usage_bytes, limit_bytes) = (pages()?, pages()?);
    let (levels, frames) = (r.u32()? as usize, r.u32()? as usize);
    if levels > LEVELS || frames > FRAMES {
        return Err(Undecodable);
    }
    let mut names = Vec::with_capacity(LEVELS);
    for _ in 0..LEVELS {
        names.push(c_string(r.bytes(NAME_BYTES)?));
    }
    let kernel_ips = (0..frames).map(|_| r.u64()).collect::<Result<_, _>>()?;
    let row = OomKill {
        ts: h.ts,
        pid: h.pid,
        comm: (!comm.is_empty()).then_some(comm),
        scope: None,
        by_pid,
        by_tid,
        by_comm,
        stack_id: None,
        cgroup: limit_bytes.map(|_| path(&names[..levels])),
        limit_bytes,
        usage_bytes,
        total_vm_bytes,
        anon_bytes,
        file_bytes,
        shmem_bytes,
        swap_bytes,
        page_table_bytes,
        oom_score_adj: total_vm_bytes.map(|_| h.aux.cast_signed()),
    };
    Ok(Decoded { row, by_stack, kernel_ips })
}

/// The path of a cgroup from its own name and those of its parents.
fn path(names: &[String]) -> String {
    let mut path = String::from(if names.len() == LEVELS { "…" } else { "" });
    for name in names.iter().rev() {
        path.push('/');
        path.push_str(name);
    }
    if path.is_empty() {
        path.push('/');
    }
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    fn record(memory: &[u64; 8], levels: u32, frames: u32) -> Vec<u8> {
        let mut b = header(event::OOM_KILL, 0, 5, 6, (-17_i32).cast_unsigned(), 1000);
        for v in [7_u32, 8] {
            b.extend(v.to_le_bytes());
        }
        b.extend(b"victim\0\0\0\0\0\0\0\0\0\0");
        b.extend(b"killer\0\0\0\0\0\0\0\0\0\0");
        b = with(b, &[0xabc]);
        b = with(b, memory);
        for v in [levels, frames] {
            b.extend(v.to_le_bytes());
        }
        for name in ["pod", "kubepods"] {
            let mut field = [0; NAME_BYTES];
            field[..name.len()].copy_from_slice(name.as_bytes());
            b.extend(field);
        }
        b.extend([0; NAME_BYTES * (LEVELS - 2)]);
        with(b, &[9; FRAMES])
    }

    #[test]
    fn a_victim_is_read_with_its_memory_and_its_group() {
        let Decoded { row, by_stack, kernel_ips } = decode(&record(&[10, 2, 3, 4, 5, 6, 7, 8], 2, 3), 4096).unwrap();
        assert_eq!((row.ts, row.pid, row.comm.as_deref(), row.oom_score_adj), (1000, 5, Some("victim"), Some(-17)));
        assert_eq!((row.by_pid, row.by_tid, row.by_comm.as_str(), by_stack), (7, 8, "killer", 0xabc));
        assert_eq!((row.total_vm_bytes, row.anon_bytes, row.file_bytes), (Some(40960), Some(8192), Some(12288)));
        assert_eq!((row.shmem_bytes, row.swap_bytes, row.page_table_bytes), (Some(16384), Some(20480), Some(6)));
        assert_eq!((row.usage_bytes, row.limit_bytes), (Some(7 * 4096), Some(8 * 4096)));
        assert_eq!(row.cgroup.as_deref(), Some("/kubepods/pod"));
        assert_eq!(kernel_ips.len(), 3);
    }

    #[test]
    fn what_was_not_measured_is_null_and_not_large() {
        let none = [NOT_MEASURED; 8];
        let row = decode(&record(&none, 0, 0), 4096).unwrap().row;
        assert_eq!((row.total_vm_bytes, row.anon_bytes, row.page_table_bytes), (None, None, None));
        assert_eq!((row.limit_bytes, row.cgroup, row.oom_score_adj), (None, None, None));
    }

    #[test]
    fn a_deep_path_says_that_it_is_cut_and_bad_records_are_errors() {
        let deep: Vec<String> = (0..LEVELS).map(|i| i.to_string()).collect();
        assert_eq!(path(&deep), "…/7/6/5/4/3/2/1/0");
        assert_eq!(path(&[]), "/");
        let whole = record(&[1; 8], 1, FRAMES as u32);
        for n in (0..whole.len()).step_by(7) {
            assert!(decode(&whole[..n], 4096).is_err(), "{n} bytes");
        }
        assert!(decode(&record(&[1; 8], 9, 0), 4096).is_err());
        assert!(decode(&record(&[1; 8], 1, 33), 4096).is_err());
    }

    #[test]
    fn without_a_kernel_stack_nothing_is_said_about_the_scope() {
        assert_eq!(scope_of(&[]), None);
    }
}
