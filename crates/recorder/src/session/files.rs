//! Numbers for mapped files, and their paths as far as they can be found out.

use std::collections::HashMap;
use std::path::Path;

use mtrace_formats::tables::FileRow;

use crate::symbols::build_id_hex;

/// Files that are kept without asking whether they are used still.
const ROOMY: usize = 16 * 1024;

/// Files of a recording; a row is written once, when its path is known or can no longer be found.
#[derive(Default)]
pub(crate) struct Files {
    ids: HashMap<(u64, u64), Known>,
    last_id: u32,
    /// Periods of the flight recorder; always 0 without one.
    period: u32,
    open: Vec<Open>,
}

/// What is known of a file.
#[derive(Debug, Clone)]
struct Known {
    id: u32,
    /// The period in which it was last mapped.
    used: u32,
    /// Its row, for a flight recorder's next dump.
    row: Option<FileRow>,
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
        if let Some(known) = self.ids.get_mut(&(dev, inode)) {
            known.used = self.period;
            return known.id;
        }
        self.last_id = self.last_id.saturating_add(1);
        let id = self.last_id;
        self.ids.insert((dev, inode), Known { id, used: self.period, row: None });
        self.open.push(Open { id, dev, inode, name: None, pid });
        id
    }

    /// A new period begins. Where room gets scarce, files that were not mapped since the period `oldest` are forgotten.
    pub(crate) fn begin_period(&mut self, period: u32, oldest: u32) {
        self.period = period;
        if self.ids.len() > ROOMY {
            self.ids.retain(|_, k| k.used >= oldest || k.row.is_none());
        }
    }

    /// Keeps a row that was written, for [`Files::rows`].
    pub(crate) fn keep(&mut self, row: &FileRow) {
        if let Some(known) = self.ids.get_mut(&(row.dev, row.inode)) {
            known.row = Some(row.clone());
        }
    }

    /// The rows that were kept, of files that were mapped since that period.
    pub(crate) fn rows(&self, period: u32) -> Vec<FileRow> {
        self.ids.values().filter(|k| k.used >= period).filter_map(|k| k.row.clone()).collect()
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
    fn rows_are_kept_as_long_as_their_file_is_in_use() {
        let mut files = Files::default();
        files.id(1, 2, u32::MAX);
        files.take_rows().iter().for_each(|r| files.keep(r));
        files.begin_period(5, 5);
        assert!(files.rows(5).is_empty());
        assert_eq!(files.id(1, 2, u32::MAX), 1);
        assert_eq!(files.rows(5).len(), 1);
        (0..=ROOMY as u64).for_each(|inode| _ = files.id(7, inode, u32::MAX));
        files.take_rows().iter().for_each(|r| files.keep(r));
        files.begin_period(6, 6);
        assert!(files.rows(0).is_empty());
        // A number is never given to another file.
        assert_eq!(files.id(1, 2, u32::MAX) as usize, ROOMY + 3);
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
