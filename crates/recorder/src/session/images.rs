//! What is executable in each address space, with the files kept open, so that an exited process still gets its names.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use mtrace_formats::tables::MapRow;

use crate::probes::{Executable, NewCode};
use crate::snapshots::{self, ExecutableMapping};
use crate::symbols::elf::{ElfFile, Segment};
use crate::symbols::source::Source;
use crate::symbols::{ExecMapping, build_id_hex};

/// Files kept open at a time; the others are opened by their path when names are looked up.
const MAX_OPEN: usize = 256;

/// Where the dynamic loader finds libraries on the common distributions; what is found is checked by its inode.
const LIBRARY_DIRS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];

/// The address spaces of a recording, by image number.
#[derive(Default)]
pub(crate) struct Images {
    images: HashMap<u32, Vec<ExecMapping>>,
    code: HashMap<(u64, u64), Code>,
}

/// A file that has been mapped executable.
#[derive(Debug)]
struct Code {
    path: String,
    kept: Option<File>,
    build_id: Option<String>,
}

impl Images {
    /// Takes the executable mappings of a snapshot of the process that has this image now.
    pub(crate) fn snapshot(&mut self, image: u32, pid: u32, rows: &[MapRow]) {
        let mut found: Vec<ExecMapping> = rows.iter().filter_map(anonymous_code).collect();
        for m in snapshots::executable_mappings(rows) {
            self.keep(pid, &m);
            let path = m.path.to_string_lossy().into_owned();
            found.push(self.mapping(m.start_addr, m.end_addr, m.offset_bytes, (m.dev, m.inode), path));
        }
        let mappings = self.images.entry(image).or_default();
        found.into_iter().for_each(|m| insert(mappings, m));
    }

    /// A mapping that was seen as a call only, because the process ended before its maps could be read.
    /// A file that no process was seen with before is looked for by its name where the loader finds libraries.
    pub(crate) fn add(&mut self, image: u32, code: &NewCode, name: Option<&str>) {
        let key = (code.dev, code.inode);
        if !self.code.contains_key(&key)
            && let Some(name) = name
            && let Some((path, file)) = self.find_library(image, name, code.inode)
        {
            self.keep_file(key, &path, Some(file));
        }
        let Some(path) = self.code.get(&key).map(|c| c.path.clone()) else { return };
        let m = self.mapping(code.start, code.start.saturating_add(code.len), code.offset, key, path);
        insert(self.images.entry(image).or_default(), m);
    }

    fn find_library(&self, image: u32, name: &str, inode: u64) -> Option<(String, File)> {
        let beside = self.mappings(image).iter().filter_map(|m| m.path.rsplit_once('/').map(|(dir, _)| dir));
        beside.chain(LIBRARY_DIRS.iter().copied()).find_map(|dir| {
            let path = format!("{dir}/{name}");
            open_inode(&path, inode).map(|file| (path, file))
        })
    }

    /// The executable of a process that was gone before its maps could be read: placed by its program headers.
    pub(crate) fn add_executable(&mut self, image: u32, path: &str, exe: Executable) {
        let key = (exe.dev, exe.inode);
        let known = self.code.get(&key).and_then(|c| c.kept.as_ref()).and_then(|f| f.try_clone().ok());
        let Some(file) = known.or_else(|| open_inode(path, exe.inode)) else { return };
        let Some(elf) = file.try_clone().ok().and_then(|f| ElfFile::parse(Source::from_file(f).ok()?)) else { return };
        self.keep_file(key, path, Some(file));
        let segments: Vec<Segment> = elf.loads().filter(|l| l.executable).cloned().collect();
        // fs/binfmt_elf.c: start_code is the lowest address of an executable segment, after the load bias.
        let Some(bias) = segments.iter().map(|l| l.vaddr).min().map(|low| exe.code_addr.wrapping_sub(low)) else {
            return;
        };
        for s in segments {
            let page = |v: u64| v & !0xfff;
            let start = bias.wrapping_add(page(s.vaddr));
            let end = bias.wrapping_add(s.vaddr.wrapping_add(s.file_bytes)).wrapping_add(0xfff) & !0xfff;
            let m = self.mapping(start, end, page(s.offset), key, path.to_owned());
            insert(self.images.entry(image).or_default(), m);
        }
    }

    /// The executable mapping of an image that holds an address.
    pub(crate) fn find(&self, image: u32, addr: u64) -> Option<&ExecMapping> {
        self.mappings(image).iter().find(|m| m.start <= addr && addr < m.end)
    }

    /// Address spaces that are known.
    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    /// The mappings of these address spaces. Their files stay open only as long as this recorder keeps them.
    pub(crate) fn only(&self, images: impl Iterator<Item = u32>) -> Self {
        let mut only = Self::default();
        for image in images {
            if let Some(mappings) = self.images.get(&image) {
                only.images.entry(image).or_insert_with(|| mappings.clone());
            }
        }
        only
    }

    /// Forgets the other address spaces, and the files that only they had mapped.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.images.retain(|image, _| keep(*image));
        let used: HashSet<(u64, u64)> = self.images.values().flatten().map(|m| (m.dev, m.inode)).collect();
        self.code.retain(|key, _| used.contains(key));
    }

    /// A forked process starts with what its parent has.
    pub(crate) fn inherit(&mut self, child: u32, parent: u32) {
        if let Some(mappings) = self.images.get(&parent).cloned() {
            self.images.insert(child, mappings);
        }
    }

    /// The executable mappings of an image.
    pub(crate) fn mappings(&self, image: u32) -> &[ExecMapping] {
        self.images.get(&image).map_or(&[], Vec::as_slice)
    }

    fn mapping(&self, start: u64, end: u64, file_offset: u64, key: (u64, u64), path: String) -> ExecMapping {
        let code = self.code.get(&key);
        let open_path =
            code.and_then(|c| c.kept.as_ref()).map(|f| PathBuf::from(format!("/proc/self/fd/{}", f.as_raw_fd())));
        let build_id = code.and_then(|c| c.build_id.clone());
        ExecMapping { start, end, file_offset, path, open_path, dev: key.0, inode: key.1, build_id }
    }

    fn keep(&mut self, pid: u32, m: &ExecutableMapping) {
        let key = (m.dev, m.inode);
        if m.inode == 0 || self.code.contains_key(&key) {
            return;
        }
        let open = || File::open(m.live_path(pid)).or_else(|_| File::open(m.path_in_root(pid))).ok();
        let file = open().filter(|f| f.metadata().is_ok_and(|d| d.is_file()));
        self.keep_file(key, &m.path.to_string_lossy(), file);
    }

    fn keep_file(&mut self, key: (u64, u64), path: &str, file: Option<File>) {
        if self.code.contains_key(&key) {
            return;
        }
        let id = |f: &File| build_id_hex(&PathBuf::from(format!("/proc/self/fd/{}", f.as_raw_fd())));
        let build_id = file.as_ref().and_then(id);
        let room = self.code.values().filter(|c| c.kept.is_some()).count() < MAX_OPEN;
        self.code.insert(key, Code { path: path.to_owned(), kept: file.filter(|_| room), build_id });
    }
}

/// Opens the file if it is still the one with this inode.
fn open_inode(path: &str, inode: u64) -> Option<File> {
    use std::os::unix::fs::MetadataExt as _;
    let file = File::open(path).ok()?;
    file.metadata().is_ok_and(|m| m.is_file() && m.ino() == inode).then_some(file)
}

/// Code that a JIT compiler made.
fn anonymous_code(row: &MapRow) -> Option<ExecMapping> {
    let executable = row.perms.as_bytes().get(2) == Some(&b'x');
    let of_file = row.inode != 0 || row.path.as_deref() == Some("[vdso]");
    (executable && !of_file).then(|| ExecMapping {
        start: row.start_addr,
        end: row.end_addr,
        path: row.path.clone().unwrap_or_default(),
        ..ExecMapping::default()
    })
}

/// The newer mapping wins where two overlap: the older one is gone.
fn insert(mappings: &mut Vec<ExecMapping>, new: ExecMapping) {
    if mappings.contains(&new) {
        return;
    }
    mappings.retain(|m| m.end <= new.start || new.end <= m.start);
    mappings.push(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: u64, end: u64, path: &str) -> ExecMapping {
        ExecMapping { start, end, path: path.to_owned(), ..ExecMapping::default() }
    }

    #[test]
    fn a_newer_mapping_replaces_what_it_covers_and_nothing_else() {
        let mut m = vec![at(0, 10, "a"), at(10, 20, "b"), at(20, 30, "c")];
        insert(&mut m, at(12, 22, "d"));
        let paths: Vec<_> = m.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(paths, ["a", "d"]);
        insert(&mut m, at(0, 10, "a"));
        assert_eq!(m.len(), 2);
    }

    #[test]
    fn a_child_has_its_parents_code_and_keeps_it_when_the_parent_changes() {
        let mut images = Images::default();
        images.images.insert(1, vec![at(0, 10, "a")]);
        images.inherit(2, 1);
        images.images.insert(1, Vec::new());
        assert_eq!(images.mappings(2).len(), 1);
        assert_eq!(images.only([2, 9].into_iter()).len(), 1);
        images.retain(|image| image == 1);
        assert_eq!((images.len(), images.mappings(2).len()), (1, 0));
        assert!(images.mappings(3).is_empty());
    }
}
