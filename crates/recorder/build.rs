//! Compiles one BPF object per probe folder: `src/probes/NAME/probe.bpf.c` becomes `$OUT_DIR/NAME.bpf.o`.

use std::path::Path;
use std::{env, fs, io};

use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = env::var("OUT_DIR")?;
    let arch = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86",
        other => return Err(format!("the probes know x86-64 only, not {other}").into()),
    };
    println!("cargo:rerun-if-changed=src/bpf");
    for probe in probes(Path::new("src/probes"))? {
        let source = format!("src/probes/{probe}/probe.bpf.c");
        println!("cargo:rerun-if-changed={source}");
        SkeletonBuilder::new()
            .source(&source)
            .obj(Path::new(&out).join(format!("{probe}.bpf.o")))
            // v3: 5.12 and later; process exit needs a compare-and-swap.
            .clang_args(["-mcpu=v3", "-I", "src/bpf", "-Wall", "-Werror", &format!("-D__TARGET_ARCH_{arch}")])
            .build()?;
    }
    Ok(())
}

/// Names of the folders that hold a BPF program.
fn probes(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().join("probe.bpf.c").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
