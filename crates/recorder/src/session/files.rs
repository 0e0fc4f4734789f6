//! Numbers for mapped files, and their paths as far as they can be found out.

use std::collections::HashMap;
use std::path::Path;

use mtrace_formats::tables::FileRow;

use crate::symbols::build_id_hex;

/// Files of a recording; a row is written once, when its path is known or can no longer be found.
#[derive(Default)]
pub(crate) struct Files {
    ids: HashMap<(u64, u64), u32>,
    open: Vec<Open>,
}

/// A file whose row is not written yet.
#[derive(Debug, Clone)]
struct Open {
    id: u32,
    dev: u64,
    inode: u64,
    /// Last component of the path, from the kernel.
    name: Option<String>,
    /// The process that mapped it.
    pid: u32,
}

impl Files {
    /// The number of a file that `pid` mapped.
    pub(crate) fn id(&mut self, dev: u64, inode: u64, pid: u32) -> u32 {
        let next = u32::try_from(self.ids.len() + 1).unwrap_or(u32::MAX);
        let id = *self.ids.entry((dev, inode)).or_insert(next);
        if id == next {
            self.open.push(Open { id, dev, inode, name: None, pid });
        }
        id
    }

    /// Notes the last component of its path.
    pub(crate) fn name(&mut self, dev: u64, inode: u64, pid: u32, name: String) {
        let id = self.id(dev, inode, pid);
        if let Some(open) = self.open.iter_mut().find(|o| o.id == id) {
            open.name = Some(name);
        }
    }

    /// The name of a file whose row was not taken yet.
    pub(crate) fn name_of(&self, dev: u64, inode: u64) -> Option<&str> {
        self.open.iter().find(|f| (f.dev, f.inode) == (dev, inode))?.name.as_deref()
    }

    /// The rows of the files that are new since the last call. Reads the maps of each process that mapped one.
    pub(crate) fn take_rows(&mut self) -> Vec<FileRow> {
        let mut maps = HashMap::new();
        let open = std::mem::take(&mut self.open);
        open.into_iter().map(|file| file.into_row(&mut maps)).collect()
    }
}

impl Open {
    fn into_row(self, maps: &mut HashMap<u32, Vec<procfs_path::Line>>) -> FileRow {
        let lines = maps.entry(self.pid).or_insert_with(|| procfs_path::read(self.pid));
        // The inode and the name: overlayfs shows another device in maps than the inode's.
        let fits = |l: &&procfs_path::Line| {
            l.inode == self.inode && (l.dev == self.dev || Some(l.name()) == self.name.as_deref())
        };
        let found = lines.iter().find(fits);
        let build_id = found.and_then(|l| {
            let live = format!("/proc/{}/map_files/{:x}-{:x}", self.pid, l.start, l.end);
            build_id_hex(Path::new(&live))
        });
        let path = found.map(|l| l.path.clone()).or(self.name);
        FileRow { file_id: self.id, dev: self.dev, inode: self.inode, path, build_id }
    }
}

/// The lines of /proc/PID/maps that belong to files.
mod procfs_path {
    use mtrace_formats::tables::SnapshotReason;

    pub(super) struct Line {
        pub(super) start: u64,
        pub(super) end: u64,
        pub(super) dev: u64,
        pub(super) inode: u64,
        pub(super) path: String,
    }

    impl Line {
        pub(super) fn name(&self) -> &str {
            self.path.rsplit('/').next().unwrap_or(&self.path)
        }
    }

    pub(super) fn read(pid: u32) -> Vec<Line> {
        let rows = crate::snapshots::take(pid, SnapshotReason::Attach).unwrap_or_default();
        let line = |r: mtrace_formats::tables::MapRow| {
            let path = r.path.filter(|_| r.inode != 0)?;
            let path = path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned();
            Some(Line { start: r.start_addr, end: r.end_addr, dev: r.dev, inode: r.inode, path })
        };
        rows.into_iter().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_number_and_one_row() {
        let mut files = Files::default();
        let a = files.id(1, 2, u32::MAX);
        files.name(1, 2, u32::MAX, "libx.so".to_owned());
        assert_eq!(files.id(1, 2, u32::MAX), a);
        assert_ne!(files.id(1, 3, u32::MAX), a);
        let rows = files.take_rows();
        assert_eq!(rows.len(), 2);
        // No such process: the name is what is left.
        assert_eq!((rows[0].file_id, rows[0].path.as_deref()), (a, Some("libx.so")));
        assert_eq!(rows[1].path, None);
        assert!(files.take_rows().is_empty());
    }

    #[test]
    fn the_path_of_a_file_that_a_living_process_maps_is_found() {
        let exe = std::env::current_exe().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let me = std::process::id();
        let rows = crate::snapshots::take(me, mtrace_formats::tables::SnapshotReason::Attach).unwrap_or_default();
        let Some(row) = rows.iter().find(|r| r.path.as_deref() == Some(exe.as_str())) else {
            panic!("this test's own binary is not in its maps");
        };
        let mut files = Files::default();
        files.id(row.dev, row.inode, me);
        assert_eq!(files.take_rows()[0].path.as_deref(), Some(exe.as_str()));
    }
}
