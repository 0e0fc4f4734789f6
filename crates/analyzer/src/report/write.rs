//! Files that are complete or not there.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Error;

/// Writes all files under temporary names first, then renames them one after the other.
pub(super) fn all(dir: &Path, files: &[(String, String)]) -> Result<Vec<PathBuf>, Error> {
    if dir.exists() && !dir.is_dir() {
        return Err(Error::NotAFolder { path: dir.to_path_buf() });
    }
    fs::create_dir_all(dir).map_err(|e| Error::io("create folder", dir, e))?;
    let mut staged = Staged(Vec::new());
    for (name, content) in files {
        staged.add(dir, name, content)?;
    }
    staged.publish()
}

/// Temporary files with their final names; what is not published is removed.
struct Staged(Vec<(PathBuf, PathBuf)>);

impl Staged {
    fn add(&mut self, dir: &Path, name: &str, content: &str) -> Result<(), Error> {
        let temporary = dir.join(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&temporary).map_err(|e| Error::io("create", &temporary, e))?;
        self.0.push((temporary.clone(), dir.join(name)));
        write_durably(file, content).map_err(|e| Error::io("write", &temporary, e))
    }

    fn publish(mut self) -> Result<Vec<PathBuf>, Error> {
        let mut published = Vec::with_capacity(self.0.len());
        while !self.0.is_empty() {
            let (temporary, name) = &self.0[0];
            fs::rename(temporary, name).map_err(|e| Error::io("rename to", name, e))?;
            published.push(self.0.remove(0).1);
        }
        Ok(published)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for (temporary, _) in &self.0 {
            // Nothing to do about a failure: the error that brought us here is the one to show.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn write_durably(mut file: File, content: &str) -> std::io::Result<()> {
    file.write_all(content.as_bytes())?;
    // A disk can run full as late as here.
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_complete_and_replace_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        all(&out, &[("x".into(), "old".into())]).unwrap();
        let written = all(&out, &[("x".into(), "new".into()), ("y".into(), "2".into())]).unwrap();
        assert_eq!(written, [out.join("x"), out.join("y")]);
        assert_eq!(fs::read_to_string(out.join("x")).unwrap(), "new");
        assert_eq!(names(&out), ["x", "y"]);
    }

    #[test]
    fn a_failure_leaves_no_temporary_and_no_half_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("y/in-the-way")).unwrap();
        let error = all(dir.path(), &[("x".into(), "1".into()), ("y".into(), "2".into())]).unwrap_err();
        assert!(error.to_string().contains("rename to"), "{error}");
        assert_eq!(names(dir.path()), ["x", "y"]);
        assert_eq!(fs::read_to_string(dir.path().join("x")).unwrap(), "1");
    }

    #[test]
    fn a_file_as_output_folder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "mine").unwrap();
        let error = all(&file, &[]).unwrap_err();
        assert!(error.to_string().contains("is not a folder"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    }
}
