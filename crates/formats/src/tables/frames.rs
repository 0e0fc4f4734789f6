use crate::table;

table! {
    /// One frame of a deduplicated stack.
    ///
    /// Stacks are walked by frame pointers; the caller of an innermost function without a frame is added where unwind tables tell. A stack is written once, with the segment in which it was first seen.
    pub struct Frame("frames") {
        /// Number of the stack in this capture.
        stack_id: u32 = Dictionary,
        /// 0 is the innermost frame.
        depth: u32 = Plain,
        /// Process whose address space `ip` belongs to.
        pid: u32 = Dictionary,
        /// Instruction pointer (depth 0) or return address (all others).
        ip: u64 = Plain,
    }
}
