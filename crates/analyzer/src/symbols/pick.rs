//! Which frame of a stack stands for it: the one whose author can change something.
//!
//! Decided by names and binaries alone; each string is looked at once per capture.

/// What a name says about who wrote the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Somebody's own code, or a library that is not part of the language.
    Own,
    /// The language's standard library.
    Standard,
    /// An address without a name and without a module.
    Nameless,
    /// The language runtime, an allocator, libc, the dynamic linker.
    Runtime,
    /// A runtime function that every stack of its kind has: it says nothing.
    Entry,
}

/// A string's role as a function and as the path of a binary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Class {
    function: Role,
    system_module: bool,
}

pub(super) fn classify(strings: &[String]) -> Vec<Class> {
    strings.iter().map(|s| Class { function: function_role(s), system_module: is_system_module(s) }).collect()
}

/// The chosen frame of a stack, given innermost first as the classes of (function, module).
pub(super) fn pick(frames: impl Iterator<Item = (Option<Class>, Option<Class>)>) -> Option<usize> {
    let roles: Vec<Role> = frames
        .map(|(function, module)| match (function, module) {
            (_, Some(m)) if m.system_module => Role::Runtime,
            (Some(f), Some(_)) if f.function == Role::Nameless => Role::Own,
            (Some(f), _) => f.function,
            (None, _) => Role::Nameless,
        })
        .collect();
    let first = |role| roles.iter().position(|r| *r == role);
    first(Role::Own)
        .or_else(|| first(Role::Standard))
        .or_else(|| roles.iter().rposition(|r| *r == Role::Runtime))
        .or_else(|| first(Role::Nameless))
        .or_else(|| first(Role::Entry))
}

/// Go's runtime and what is compiled as a part of it.
const GO_RUNTIME: &[&str] = &[
    "runtime.",
    "runtime/internal/",
    "runtime/cgo.",
    "internal/runtime/",
    "internal/abi.",
    "internal/bytealg.",
    "internal/cpu.",
    "internal/chacha8rand.",
    "internal/race.",
    "internal/asan.",
    "internal/msan.",
    "_cgo_",
    "x_cgo_",
    "crosscall",
    "_rt0_",
    "gcWriteBarrier",
    "memeqbody",
    "aeshashbody",
    "indexbytebody",
    "cmpbody",
];

/// First elements of import paths in Go's standard library; a module's path begins with a domain or its own name.
const GO_STANDARD: &[&str] = &[
    "archive",
    "bufio",
    "bytes",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "internal",
    "io",
    "iter",
    "log",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "runtime",
    "slices",
    "sort",
    "strconv",
    "strings",
    "structs",
    "sync",
    "syscall",
    "testing",
    "text",
    "time",
    "unicode",
    "unique",
    "unsafe",
    "vendor",
    "weak",
];

/// Functions that begin every stack of their kind.
const ENTRIES: &[&str] = &[
    "runtime.goexit",
    "runtime.mcall",
    "runtime.systemstack",
    "runtime.systemstack_switch",
    "runtime.mstart",
    "runtime.mstart0",
    "runtime.mstart1",
    "runtime.morestack",
    "runtime.asmcgocall",
    "runtime.rt0_go",
    "runtime.main",
    "runtime.park_m",
    "runtime.schedule",
    "runtime.goexit0",
    "runtime.goexit1",
    "runtime.gosched_m",
    "runtime.gopreempt_m",
    "runtime.goschedImpl",
    "start_thread",
    "clone",
    "clone3",
    "__clone3",
    "_start",
    "__libc_start_main",
    "__libc_start_call_main",
    "call_init",
];

/// C and Rust functions that serve any caller; in a static binary no module gives them away.
const ALLOCATORS: &[&str] = &[
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "free",
    "cfree",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "mmap",
    "mmap64",
    "munmap",
    "mremap",
    "madvise",
    "mprotect",
    "brk",
    "sbrk",
    "sysmalloc",
    "systrim",
    "malloc_consolidate",
    "memset",
    "memcpy",
    "memmove",
    "bzero",
    "strdup",
    "new_heap",
    "grow_heap",
    "arena_get2",
    "tcache_init",
];

const ALLOCATOR_PREFIXES: &[&str] = &[
    "__libc_",
    "_int_malloc",
    "_int_free",
    "_int_realloc",
    "_int_memalign",
    "__memset_",
    "__memcpy_",
    "__memmove_",
    "__mmap",
    "__munmap",
    "__mprotect",
    "__madvise",
    "__brk",
    "__sbrk",
    "__GI_",
    "_dl_",
    "je_",
    "mi_",
    "tcmalloc::",
    "operator new",
    "operator delete",
    "std::",
    "__gnu_cxx::",
    "<std::",
    "alloc::",
    "<alloc::",
    "core::",
    "<core::",
    "hashbrown::",
    "<hashbrown::",
    "__rust_",
    "__rdl_",
    "__rg_",
    "__rustc",
];

fn function_role(name: &str) -> Role {
    // The compiler's wrapper around a `go f(x)` statement: the function itself is the next frame inwards.
    let is_go_wrapper = name.rsplit_once(".gowrap").is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
    if ENTRIES.contains(&name) || is_go_wrapper {
        return Role::Entry;
    }
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    if starts(GO_RUNTIME) || ALLOCATORS.contains(&name) || starts(ALLOCATOR_PREFIXES) || is_std_with_type(name) {
        return Role::Runtime;
    }
    if name.starts_with("0x") {
        return Role::Nameless;
    }
    let is_go = name.contains('.') && !name.contains("::");
    let first = name.split(['/', '.']).next().unwrap_or(name);
    if is_go && GO_STANDARD.contains(&first) { Role::Standard } else { Role::Own }
}

/// A demangled C++ template function carries its return type: `void std::vector<…>::…`.
fn is_std_with_type(name: &str) -> bool {
    name.split_once(' ').is_some_and(|(kind, rest)| {
        !kind.contains(['<', ':', '(']) && (rest.starts_with("std::") || rest.starts_with("__gnu_cxx::"))
    })
}

fn is_system_module(path: &str) -> bool {
    if path.starts_with("[v") || path == "[kernel]" || path == "[uprobes]" {
        return true;
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    const SYSTEM: &[&str] = &[
        "libc.so",
        "libc-",
        "libc.musl",
        "ld-",
        "libpthread",
        "libstdc++.so",
        "libc++.so",
        "libgcc_s.so",
        "libjemalloc.so",
        "libtcmalloc",
        "libmimalloc.so",
    ];
    // A Go or Rust binary may be called anything; libraries are not called `ld-…` without being one.
    (name.contains(".so") || name.starts_with("ld-")) && SYSTEM.iter().any(|s| name.starts_with(s))
}
