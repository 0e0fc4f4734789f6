//! What is behind mappings, by number: the same file is the same number whether a call or a snapshot named it.

use std::collections::HashMap;

use mtrace_formats::tables::{FileRow, MapRow};

use super::vma::{Backing, Perms};

/// Numbers of the names that stand for no file.
mod fixed {
    pub(super) const ANONYMOUS: u32 = 0;
    pub(super) const HEAP: u32 = 1;
    pub(super) const STACK: u32 = 2;
    pub(super) const SHARED: u32 = 3;
    pub(super) const UNKNOWN: u32 = 4;
    pub(super) const NAMES: [&str; 5] = ["anonymous", "[heap]", "[stack]", "shared anonymous", "unidentified file"];
}

/// Files and special mappings of a capture.
#[derive(Debug, Default)]
pub(crate) struct FileTable {
    names: Vec<String>,
    by_inode: HashMap<(u64, u64), u32>,
    by_path: HashMap<(u64, String), u32>,
    by_file_id: HashMap<u32, u32>,
    special: HashMap<String, u32>,
}

impl FileTable {
    pub(crate) fn new(files: &[FileRow]) -> Self {
        let mut t = Self { names: fixed::NAMES.iter().map(|s| (*s).to_owned()).collect(), ..Self::default() };
        for f in files {
            let id = t.resolve(f.dev, f.inode, f.path.as_deref());
            t.by_file_id.insert(f.file_id, id);
        }
        t
    }

    /// The backing of a mapped file; `None` stands for a file that could not be read.
    pub(crate) fn of_call(&self, file_id: Option<u32>) -> Backing {
        file_id.and_then(|id| self.by_file_id.get(&id)).map_or(Backing::UnknownFile, |id| Backing::File(*id))
    }

    /// The backing of a line of /proc/PID/maps.
    pub(crate) fn of_map(&mut self, row: &MapRow) -> Backing {
        let path = row.path.as_deref().unwrap_or("");
        match path {
            "[heap]" => Backing::Heap,
            "[stack]" => Backing::Stack,
            "/dev/zero (deleted)" if Perms::from_letters(&row.perms).is_shared() => Backing::SharedAnonymous,
            p if p.starts_with("[anon_shmem:") => Backing::SharedAnonymous,
            p if p.starts_with("[anon:") || p.starts_with("[stack:") => Backing::Anonymous,
            "" if row.inode == 0 => Backing::Anonymous,
            p if p.starts_with('[') => self.special(p),
            _ => Backing::File(self.resolve(row.dev, row.inode, row.path.as_deref())),
        }
    }

    /// A mapping of the kernel's own, by the name that maps shows.
    pub(crate) fn special(&mut self, name: &str) -> Backing {
        let names = &mut self.names;
        Backing::Special(*self.special.entry(name.to_owned()).or_insert_with(|| {
            names.push(name.to_owned());
            names.len() as u32 - 1
        }))
    }

    /// Number of the name of a backing.
    pub(crate) fn name_id(backing: Backing) -> u32 {
        match backing {
            Backing::Anonymous => fixed::ANONYMOUS,
            Backing::Heap => fixed::HEAP,
            Backing::Stack => fixed::STACK,
            Backing::SharedAnonymous => fixed::SHARED,
            Backing::UnknownFile => fixed::UNKNOWN,
            Backing::File(id) | Backing::Special(id) => id,
        }
    }

    pub(crate) fn name(&self, backing: Backing) -> &str {
        self.names.get(Self::name_id(backing) as usize).map_or("?", String::as_str)
    }

    pub(crate) fn into_names(self) -> Vec<String> {
        self.names
    }

    /// Overlay and btrfs show another device in maps than the inode has: then inode and path decide.
    fn resolve(&mut self, dev: u64, inode: u64, path: Option<&str>) -> u32 {
        let path = path.map(|p| p.strip_suffix(" (deleted)").unwrap_or(p));
        let known = self
            .by_inode
            .get(&(dev, inode))
            .or_else(|| path.and_then(|p| self.by_path.get(&(inode, p.to_owned()))))
            .copied();
        let id = known.unwrap_or_else(|| {
            let name = path.map_or_else(|| format!("file {dev:#x}:{inode}"), str::to_owned);
            self.names.push(name);
            self.names.len() as u32 - 1
        });
        self.by_inode.insert((dev, inode), id);
        if let Some(p) = path {
            // A call may know no more than the last component.
            if let Some(name) = self.names.get_mut(id as usize).filter(|n| !n.starts_with('/') && p.starts_with('/')) {
                p.clone_into(name);
            }
            self.by_path.insert((inode, p.to_owned()), id);
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use mtrace_formats::tables::SnapshotReason;

    use super::*;

    fn map(path: &str, dev: u64, inode: u64, perms: &str) -> MapRow {
        MapRow {
            ts: 0,
            ts_end: 0,
            reason: SnapshotReason::End,
            pid: 1,
            start_addr: 0,
            end_addr: 4096,
            perms: perms.to_owned(),
            offset_bytes: 0,
            dev,
            inode,
            path: (!path.is_empty()).then(|| path.to_owned()),
        }
    }

    fn file(file_id: u32, dev: u64, inode: u64, path: &str) -> FileRow {
        FileRow { file_id, dev, inode, path: Some(path.to_owned()), build_id: None }
    }

    #[test]
    fn a_call_and_a_snapshot_mean_the_same_file() {
        let mut t = FileTable::new(&[file(1, 0x801, 77, "/lib/libc.so.6"), file(2, 0x99, 78, "/over/lay")]);
        assert_eq!(t.of_map(&map("/lib/libc.so.6", 0x801, 77, "r-xp")), t.of_call(Some(1)));
        assert_eq!(t.of_map(&map("/over/lay (deleted)", 0x2b, 78, "r--p")), t.of_call(Some(2)));
        assert_ne!(t.of_map(&map("/other", 0x801, 79, "r--p")), t.of_call(Some(1)));
        assert_eq!(t.of_call(None), Backing::UnknownFile);
    }

    #[test]
    fn a_last_component_becomes_a_path_when_a_snapshot_knows_it() {
        let mut t = FileTable::new(&[file(1, 0xfe00, 77, "libc.so.6")]);
        let of_map = t.of_map(&map("/lib/libc.so.6", 0xfe00, 77, "r-xp"));
        assert_eq!(of_map, t.of_call(Some(1)));
        assert_eq!(t.name(of_map), "/lib/libc.so.6");
    }

    #[test]
    fn names_without_a_file_are_recognised() {
        let mut t = FileTable::new(&[]);
        assert_eq!(t.of_map(&map("", 0, 0, "rw-p")), Backing::Anonymous);
        assert_eq!(t.of_map(&map("[anon: Go: heap]", 0, 0, "rw-p")), Backing::Anonymous);
        assert_eq!(t.of_map(&map("[heap]", 0, 0, "rw-p")), Backing::Heap);
        assert_eq!(t.of_map(&map("/dev/zero (deleted)", 1, 9, "rw-s")), Backing::SharedAnonymous);
        let vdso = t.of_map(&map("[vdso]", 0, 0, "r-xp"));
        assert_eq!(t.name(vdso), "[vdso]");
    }
}
