use mtrace_formats::tables::{Frame, SymbolRow, SymbolSource};

use super::*;

fn frame(stack_id: u32, depth: u32, ip: u64) -> Frame {
    Frame { stack_id, depth, pid: 1, ip }
}

fn symbol(stack_id: u32, depth: u32, inline_depth: u32, function: &str, module: &str) -> SymbolRow {
    SymbolRow {
        stack_id,
        depth,
        inline_depth,
        function: Some(function.to_owned()),
        file: Some("f.go".to_owned()),
        line: Some(depth + 1),
        module: Some(module.to_owned()),
        module_offset_bytes: Some(0x10),
        source: SymbolSource::Pclntab,
    }
}

fn table(stacks: &[&[(&str, &str)]]) -> SymbolTable {
    let mut frames = Vec::new();
    let mut symbols = Vec::new();
    for (id, stack) in stacks.iter().enumerate() {
        for (depth, (function, module)) in stack.iter().enumerate() {
            frames.push(frame(id as u32, depth as u32, 0x1000 + depth as u64));
            symbols.push(symbol(id as u32, depth as u32, 0, function, module));
        }
    }
    let mut b = SymbolTable::builder(frames);
    b.add(symbols);
    b.finish(&[])
}

fn picked(stack: &[(&str, &str)]) -> String {
    table(&[stack]).location_of(0).unwrap().function
}

#[test]
fn the_first_frame_outside_runtime_and_standard_library_is_picked() {
    let app = "/srv/app";
    let stack = [
        ("runtime.memclrNoHeapPointers", app),
        ("runtime.mallocgc", app),
        ("bytes.growSlice", app),
        ("coldstart/cache.(*Store).Fill", app),
        ("net/http.(*conn).serve", app),
        ("runtime.goexit", app),
    ];
    assert_eq!(picked(&stack), "coldstart/cache.(*Store).Fill");
    assert_eq!(picked(&[stack[0], stack[4], stack[5]]), "net/http.(*conn).serve");
}

#[test]
fn a_stack_of_the_runtime_alone_is_named_by_its_outermost_telling_frame() {
    let app = "/srv/app";
    let stack =
        [("runtime.madvise", app), ("runtime.sysUnused", app), ("runtime.bgscavenge", app), ("runtime.goexit", app)];
    assert_eq!(picked(&stack), "runtime.bgscavenge");
    let wrapped = [stack[0], ("runtime.bgsweep", app), ("runtime.gcenable.gowrap1", app), stack[3]];
    assert_eq!(picked(&wrapped), "runtime.bgsweep");
}

#[test]
fn libc_and_the_standard_library_of_cpp_are_skipped_by_module_and_by_name() {
    let stack = [
        ("__memset_avx2", "/lib/x86_64-linux-gnu/libc.so.6"),
        ("unknown_helper", "/lib/x86_64-linux-gnu/libc-2.31.so"),
        ("operator new(unsigned long)", "/usr/lib/libstdc++.so.6"),
        ("void std::vector<int>::_M_realloc_insert<int>(int)", "/srv/a"),
        ("Index::grow()", "/srv/a"),
        ("main", "/srv/a"),
    ];
    assert_eq!(picked(&stack), "Index::grow()");
}

#[test]
fn inlined_functions_are_frames_of_their_own() {
    let mut b = SymbolTable::builder(vec![frame(7, 0, 0x10), frame(7, 1, 0x20)]);
    b.add(vec![
        symbol(7, 0, 0, "app.inner", "/a"),
        symbol(7, 0, 1, "app.outer", "/a"),
        symbol(7, 1, 0, "main.main", "/a"),
    ]);
    let t = b.finish(&[]);
    let frames = t.stack(7);
    let shown: Vec<_> = frames.iter().map(|f| (f.function.as_str(), f.inlined)).collect();
    assert_eq!(shown, [("app.inner", true), ("app.outer", false), ("main.main", false)]);
    assert_eq!(t.location_of(7).unwrap().function, "app.inner");
    assert_eq!(t.named(), (3, 3));
}

#[test]
fn frames_without_symbols_are_shown_by_module_or_address() {
    let maps = [MapRow {
        ts: 1,
        ts_end: 1,
        reason: mtrace_formats::tables::SnapshotReason::Attach,
        pid: 1,
        start_addr: 0x40_0000,
        end_addr: 0x50_0000,
        perms: "r-xp".to_owned(),
        offset_bytes: 0x1000,
        dev: 1,
        inode: 2,
        path: Some("/srv/app".to_owned()),
    }];
    let t = SymbolTable::builder(vec![frame(1, 0, 0x40_0123), frame(1, 1, 0x99_0000)]).finish(&maps);
    let names: Vec<_> = t.functions(1).collect();
    assert_eq!(names, ["app+0x1123", "0x990000"]);
    assert_eq!(t.location_of(1).unwrap().module.as_deref(), Some("/srv/app"));
    assert_eq!(t.named(), (0, 2));
}

#[test]
fn an_unknown_stack_has_no_location() {
    let t = table(&[]);
    assert_eq!(t.location_of(3), None);
    assert!(t.stack(NONE).is_empty());
}
