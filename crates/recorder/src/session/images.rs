//! What is executable in each address space, with the files kept open, so that an exited process still gets its names.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use mtrace_formats::tables::MapRow;

use super::roots::Roots;
use crate::probes::{Executable, NewCode};
use crate::snapshots::{self, ExecutableMapping};
use crate::symbols::elf::{ElfFile, Segment};
use crate::symbols::source::Source;
use crate::symbols::{ExecMapping, build_id_hex};

/// Files kept open at a time; the others are opened by their path when names are looked up.
const MAX_OPEN: usize = 512;
/// Mappings kept, 32 MiB of them, and files: a host that starts programs all day must not exhaust memory.
const MAX_MAPPINGS: usize = 1 << 20;
const MAX_FILES: usize = 1 << 16;

/// Where the dynamic loader finds libraries on the common distributions; what is found is checked by its inode.
const LIBRARY_DIRS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];

/// The address spaces of a recording, by image number.
#[derive(Default)]
pub(crate) struct Images {
    images: HashMap<u32, Vec<Mapping>>,
    /// All that has been mapped executable; what is anonymous is a file without device and inode.
    code: Vec<Code>,
    /// Into `code`, by device and inode; a file that was seen under several paths has several.
    known: HashMap<(u64, u64), Vec<u32>>,
    open: usize,
    mappings: usize,
    pub(crate) roots: Roots,
    /// Mappings that there was no room for: their addresses get no names.
    pub(crate) left_out: u64,
}

/// Thousands of processes have dozens each: kept small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    file_offset: u64,
    /// Into [`Images::code`].
    code: u32,
}

/// A file that has been mapped executable.
#[derive(Debug, Clone)]
struct Code {
    key: (u64, u64),
    path: String,
    kept: Option<Arc<File>>,
    build_id: Option<String>,
}

impl Images {
    /// Takes the executable mappings of a snapshot of the process that has this image now.
    pub(crate) fn snapshot(&mut self, image: u32, pid: u32, rows: &[MapRow]) {
        self.roots.keep(pid);
        for row in rows.iter().filter(|r| is_anonymous_code(r)) {
            let code = self.code_of((0, 0), row.path.as_deref().unwrap_or_default(), || None);
            self.insert(
                image,
                code.map(|code| Mapping { start: row.start_addr, end: row.end_addr, file_offset: 0, code }),
            );
        }
        for m in snapshots::executable_mappings(rows) {
            let code = self.keep(pid, &m);
            let found =
                code.map(|code| Mapping { start: m.start_addr, end: m.end_addr, file_offset: m.offset_bytes, code });
            self.insert(image, found);
        }
    }

    /// A mapping that was seen as a call only, because the process ended before its maps could be read.
    /// A file that no process was seen with before is looked for by its name where the loader finds libraries.
    pub(crate) fn add(&mut self, image: u32, code: &NewCode, name: Option<&str>) {
        let key = (code.dev, code.inode);
        if !self.known.contains_key(&key)
            && let Some(name) = name
            && let Some((path, file)) = self.find_library(image, name, code.inode)
        {
            self.code_of(key, &path, || Some(file));
        }
        let Some(number) = self.known.get(&key).and_then(|k| k.first().copied()) else { return };
        let end = code.start.saturating_add(code.len);
        self.insert(image, Some(Mapping { start: code.start, end, file_offset: code.offset, code: number }));
    }

    fn find_library(&self, image: u32, name: &str, inode: u64) -> Option<(String, File)> {
        let paths = self.of(image).iter().filter_map(|m| self.code.get(m.code as usize)).map(|c| c.path.as_str());
        let beside = paths.filter_map(|path| path.rsplit_once('/').map(|(dir, _)| dir));
        beside.chain(LIBRARY_DIRS.iter().copied()).find_map(|dir| {
            let path = format!("{dir}/{name}");
            self.roots.open(&path, inode).map(|file| (path, file))
        })
    }

    /// The executable of a process that was gone before its maps could be read: placed by its program headers.
    pub(crate) fn add_executable(&mut self, image: u32, path: &str, exe: Executable) {
        let key = (exe.dev, exe.inode);
        let kept = |n: &u32| self.code.get(*n as usize)?.kept.as_ref()?.try_clone().ok();
        let known = self.known.get(&key).and_then(|numbers| numbers.iter().find_map(kept));
        let Some(file) = known.or_else(|| self.roots.open(path, exe.inode)) else { return };
        let Some(elf) = file.try_clone().ok().and_then(|f| ElfFile::parse(Source::from_file(f).ok()?)) else { return };
        let code = self.code_of(key, path, || Some(file));
        let segments: Vec<Segment> = elf.loads().filter(|l| l.executable).cloned().collect();
        // fs/binfmt_elf.c: start_code is the lowest address of an executable segment, after the load bias.
        let Some(bias) = segments.iter().map(|l| l.vaddr).min().map(|low| exe.code_addr.wrapping_sub(low)) else {
            return;
        };
        for s in segments {
            let page = |v: u64| v & !0xfff;
            let start = bias.wrapping_add(page(s.vaddr));
            let end = bias.wrapping_add(s.vaddr.wrapping_add(s.file_bytes)).wrapping_add(0xfff) & !0xfff;
            self.insert(image, code.map(|code| Mapping { start, end, file_offset: page(s.offset), code }));
        }
    }

    /// The executable mapping of an image that holds an address.
    pub(crate) fn find(&self, image: u32, addr: u64) -> Option<ExecMapping> {
        self.of(image).iter().find(|m| m.start <= addr && addr < m.end).and_then(|m| self.mapping(m))
    }

    /// Address spaces that are known.
    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    /// These address spaces, with the files that they have mapped.
    pub(crate) fn only(&self, images: impl Iterator<Item = u32>) -> Self {
        let mut only = Self::default();
        for image in images {
            if let Some(mappings) = self.images.get(&image) {
                only.images.entry(image).or_insert_with(|| mappings.clone());
            }
        }
        only.code = self.code.clone();
        only.drop_unused_code();
        only
    }

    /// Forgets the other address spaces, and the files that only they had mapped.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.images.retain(|image, _| keep(*image));
        self.drop_unused_code();
    }

    /// Numbers the files that are mapped anew, and counts again.
    fn drop_unused_code(&mut self) {
        let mut old: Vec<Option<Code>> = std::mem::take(&mut self.code).into_iter().map(Some).collect();
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        for m in self.images.values_mut().flatten() {
            m.code = *numbers.entry(m.code).or_insert_with(|| {
                self.code.extend(old.get_mut(m.code as usize).and_then(Option::take));
                self.code.len() as u32 - 1
            });
        }
        self.known.clear();
        for (number, code) in (0..).zip(&self.code) {
            self.known.entry(code.key).or_default().push(number);
        }
        self.open = self.code.iter().filter(|c| c.kept.is_some()).count();
        self.mappings = self.images.values().map(Vec::len).sum();
    }

    /// A forked process starts with what its parent has.
    pub(crate) fn inherit(&mut self, child: u32, parent: u32) {
        for m in self.of(parent).to_vec() {
            self.insert(child, Some(m));
        }
    }

    /// Nothing refers to this image any more, or ever will.
    pub(crate) fn forget(&mut self, image: u32) {
        self.mappings -= self.images.remove(&image).map_or(0, |m| m.len());
    }

    /// The executable mappings of an image.
    pub(crate) fn mappings(&self, image: u32) -> Vec<ExecMapping> {
        self.of(image).iter().filter_map(|m| self.mapping(m)).collect()
    }

    fn of(&self, image: u32) -> &[Mapping] {
        self.images.get(&image).map_or(&[], Vec::as_slice)
    }

    fn mapping(&self, m: &Mapping) -> Option<ExecMapping> {
        let code = self.code.get(m.code as usize)?;
        Some(ExecMapping {
            start: m.start,
            end: m.end,
            file_offset: m.file_offset,
            path: code.path.clone(),
            open_path: code.kept.as_ref().map(|f| PathBuf::from(format!("/proc/self/fd/{}", f.as_raw_fd()))),
            dev: code.key.0,
            inode: code.key.1,
            build_id: code.build_id.clone(),
        })
    }

    fn insert(&mut self, image: u32, new: Option<Mapping>) {
        let Some(new) = new.filter(|_| self.mappings < MAX_MAPPINGS) else {
            self.left_out += 1;
            return;
        };
        let mappings = self.images.entry(image).or_default();
        self.mappings -= mappings.len();
        insert(mappings, new);
        self.mappings += mappings.len();
    }

    fn keep(&mut self, pid: u32, m: &ExecutableMapping) -> Option<u32> {
        let open = || {
            let file = File::open(m.live_path(pid)).or_else(|_| File::open(m.path_in_root(pid))).ok();
            file.filter(|f| f.metadata().is_ok_and(|d| d.is_file()))
        };
        let of_kernel = m.inode == 0;
        self.code_of((m.dev, m.inode), &m.path.to_string_lossy(), || if of_kernel { None } else { open() })
    }

    /// The number of a file; `open` is asked when it is new.
    fn code_of(&mut self, key: (u64, u64), path: &str, open: impl FnOnce() -> Option<File>) -> Option<u32> {
        let numbers = self.known.entry(key).or_default();
        let same = |n: &&u32| self.code.get(**n as usize).is_some_and(|c| c.path == path);
        if let Some(number) = numbers.iter().find(same) {
            return Some(*number);
        }
        if self.code.len() >= MAX_FILES {
            return None;
        }
        let number = self.code.len() as u32;
        numbers.push(number);
        let file = open();
        let id = |f: &File| build_id_hex(&PathBuf::from(format!("/proc/self/fd/{}", f.as_raw_fd())));
        let build_id = file.as_ref().and_then(id);
        let kept = file.filter(|_| self.open < MAX_OPEN).map(Arc::new);
        self.open += usize::from(kept.is_some());
        self.code.push(Code { key, path: path.to_owned(), kept, build_id });
        Some(number)
    }
}

/// Code that a JIT compiler made.
fn is_anonymous_code(row: &MapRow) -> bool {
    let executable = row.perms.as_bytes().get(2) == Some(&b'x');
    let of_file = row.inode != 0 || row.path.as_deref() == Some("[vdso]");
    executable && !of_file
}

/// The newer mapping wins where two overlap: the older one is gone.
fn insert(mappings: &mut Vec<Mapping>, new: Mapping) {
    if mappings.contains(&new) {
        return;
    }
    mappings.retain(|m| m.end <= new.start || new.end <= m.start);
    mappings.push(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: u64, end: u64, code: u32) -> Mapping {
        Mapping { start, end, file_offset: 0, code }
    }

    #[test]
    fn a_newer_mapping_replaces_what_it_covers_and_nothing_else() {
        let mut m = vec![at(0, 10, 1), at(10, 20, 2), at(20, 30, 3)];
        insert(&mut m, at(12, 22, 4));
        assert_eq!(m.iter().map(|m| m.code).collect::<Vec<_>>(), [1, 4]);
        insert(&mut m, at(0, 10, 1));
        assert_eq!(m.len(), 2);
    }

    #[test]
    fn a_child_has_its_parents_code_and_keeps_it_when_the_parent_is_forgotten() {
        let mut images = Images::default();
        let code = images.code_of((1, 2), "a", || None);
        images.insert(1, code.map(|code| at(0, 10, code)));
        images.inherit(2, 1);
        images.forget(1);
        assert_eq!(images.find(2, 5).map(|m| (m.path, m.inode)), Some(("a".to_owned(), 2)));
        assert!(images.mappings(1).is_empty() && images.mappings(3).is_empty());
        images.forget(2);
        images.forget(2);
        assert_eq!((images.mappings, images.left_out), (0, 0));
    }

    #[test]
    fn what_is_left_has_its_files_under_new_numbers() {
        let mut images = Images::default();
        for (image, path) in [(1, "a"), (2, "b"), (3, "b")] {
            let code = images.code_of((1, u64::from(path.as_bytes()[0])), path, || None);
            images.insert(image, code.map(|code| at(0, 10, code)));
        }
        let only = images.only([2, 9].into_iter());
        let path = |images: &Images, image| images.find(image, 5).map(|m| m.path);
        assert_eq!((only.len(), only.code.len(), path(&only, 2).as_deref()), (1, 1, Some("b")));
        images.retain(|image| image != 1);
        assert_eq!((images.len(), images.code.len(), images.mappings), (2, 1, 2));
        assert_eq!((path(&images, 3).as_deref(), path(&images, 1)), (Some("b"), None));
        let code = images.code_of((1, u64::from(b'a')), "a", || None);
        images.insert(4, code.map(|code| at(0, 10, code)));
        assert_eq!((path(&images, 4).as_deref(), path(&images, 2).as_deref()), (Some("a"), Some("b")));
    }

    #[test]
    fn mappings_are_bounded_and_what_is_left_out_is_counted() {
        let mut images = Images { mappings: MAX_MAPPINGS, ..Images::default() };
        images.insert(1, Some(at(0, 10, 0)));
        assert_eq!((images.left_out, images.mappings(1).len()), (1, 0));
    }
}
