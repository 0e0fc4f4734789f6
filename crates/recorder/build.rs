//! Compiles one BPF object per probe folder: `src/probes/NAME/probe.bpf.c` becomes `$OUT_DIR/NAME.bpf.o`.
//!
//! The objects of the other architectures are compiled as well, into `$OUT_DIR/ARCHITECTURE/`, and not used: whoever
//! changes a probe hears at once that it has stopped compiling elsewhere. It needs nothing but the same clang.

use std::path::Path;
use std::{env, fs, io};

use libbpf_cargo::SkeletonBuilder;

/// Rust's name and that of `__TARGET_ARCH_…`; see src/bpf/arch.bpf.h.
const ARCHITECTURES: &[(&str, &str)] = &[("x86_64", "x86"), ("aarch64", "arm64")];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = env::var("OUT_DIR")?;
    let target = env::var("CARGO_CFG_TARGET_ARCH")?;
    if !ARCHITECTURES.iter().any(|(name, _)| *name == target) {
        return Err(format!("the probes know x86_64 and aarch64, not {target}: see src/bpf/arch.bpf.h").into());
    }
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-changed=src/probes");
    for (name, macro_name) in ARCHITECTURES {
        let dir = if *name == target { Path::new(&out).to_path_buf() } else { Path::new(&out).join(name) };
        fs::create_dir_all(&dir)?;
        for probe in probes(Path::new("src/probes"))? {
            compile(&probe, macro_name, &dir).map_err(|e| format!("probe `{probe}` for {name}: {e}"))?;
        }
    }
    Ok(())
}

fn compile(probe: &str, architecture: &str, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    SkeletonBuilder::new()
        .source(format!("src/probes/{probe}/probe.bpf.c"))
        .obj(dir.join(format!("{probe}.bpf.o")))
        // v3: 5.12 and later; process exit needs a compare-and-swap.
        .clang_args(["-mcpu=v3", "-I", "src/bpf", "-Wall", "-Werror", &format!("-D__TARGET_ARCH_{architecture}")])
        .build()?;
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
