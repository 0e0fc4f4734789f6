//! Where in a Go function to put an entry probe.
//!
//! A Go function begins with a look whether the goroutine's stack has room. If not, the stack is moved and the function
//! begins once more, so a probe on its first instruction counts one call twice. The instruction after the look is
//! executed once per call, with all arguments still in their registers.

use crate::symbols::elf::Machine;

/// Bytes of code that [`after_stack_check`] wants to see.
pub(crate) const BYTES: usize = 24;

/// Distance in bytes from the entry to the first instruction after the stack check; 0 if there is no check in a known
/// form (Go 1.17 and later: stackguard0 of the goroutine is at 16, stackguard1 at 24).
pub(crate) fn after_stack_check(machine: Machine, code: &[u8]) -> u64 {
    match machine {
        Machine::X86_64 => after_check_of_amd64(code),
        Machine::Aarch64 => after_check_of_arm64(code),
        Machine::Other => 0,
    }
}

/// The goroutine is in R28.
fn after_check_of_arm64(code: &[u8]) -> u64 {
    const IMMEDIATE_12: u32 = 0xfff << 10;
    let mut words = code.chunks_exact(4).filter_map(|w| Some(u32::from_le_bytes(w.try_into().ok()?)));
    let mut next = || words.next().unwrap_or_default();
    // MOVD guard(R28), R16
    if !matches!(next(), 0xf940_0b90 | 0xf940_0f90) {
        return 0;
    }
    let bytes = match next() {
        // CMP R16, RSP
        0xeb30_63ff => 12,
        // SUB $N, RSP, R17 of larger frames; CMP R16, R17
        word if word & !IMMEDIATE_12 == 0xd100_03f1 && next() == 0xeb10_023f => 16,
        _ => return 0,
    };
    // BLS
    if next() & 0xff00_001f == 0x5400_0009 { bytes } else { 0 }
}

/// The goroutine is in R14.
fn after_check_of_amd64(code: &[u8]) -> u64 {
    // lea -N(SP), R12 of larger frames, with a small or a large N.
    let lea: usize = match code {
        [0x4c, 0x8d, 0x64, 0x24, ..] => 5,
        [0x4c, 0x8d, 0xa4, 0x24, ..] => 8,
        _ => 0,
    };
    let compare = if lea == 0 { 0x49 } else { 0x4d };
    let jump = match code.get(lea..) {
        // cmp guard(R14), SP or R12; jbe near or short.
        Some([prefix, 0x3b, 0x66, 0x10 | 0x18, 0x0f, 0x86, ..]) if *prefix == compare => 6,
        Some([prefix, 0x3b, 0x66, 0x10 | 0x18, 0x76, ..]) if *prefix == compare => 2,
        _ => return 0,
    };
    (lea + 4 + jump) as u64
}

#[cfg(test)]
mod tests {
    use super::{Machine, after_stack_check};

    #[test]
    fn the_checks_that_go_compiles_are_known() {
        // runtime.(*gcControllerState).startCycle, runtime.gcSweep, runtime.stopTheWorldWithSema and
        // runtime.gcMarkTermination of Go 1.21 to 1.27; a small function with a short jump.
        let cases: [(&[u8], u64); 5] = [
            (&[0x49, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0xcb, 0x02, 0, 0, 0x55], 10),
            (&[0x49, 0x3b, 0x66, 0x18, 0x0f, 0x86, 0x0b, 0x02, 0, 0, 0x55], 10),
            (&[0x4c, 0x8d, 0x64, 0x24, 0xd8, 0x4d, 0x3b, 0x66, 0x18, 0x0f, 0x86, 8, 5, 0, 0, 0x55], 15),
            (&[0x4c, 0x8d, 0xa4, 0x24, 0x18, 0xfc, 0xff, 0xff, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 0, 0, 0], 18),
            (&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x55], 6),
        ];
        for (code, expected) in cases {
            assert_eq!(after_stack_check(Machine::X86_64, code), expected, "{code:02x?}");
        }
    }

    #[test]
    fn so_are_those_for_arm64() {
        let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        // runtime.(*gcControllerState).startCycle, runtime.gcSweep and runtime.gcMarkTermination of Go 1.21 to 1.27.
        let cases: [(&[u32], u64); 5] = [
            (&[0xf940_0b90, 0xeb30_63ff, 0x5400_1609, 0xf81a_0ffe], 12),
            (&[0xf940_0f90, 0xeb30_63ff, 0x5400_1529, 0xf81c_0ffe], 12),
            (&[0xf940_0b90, 0xd107_03f1, 0xeb10_023f, 0x5400_6ea9, 0xd109_03f4], 16),
            (&[0xf940_0b90, 0xd107_03f1, 0xeb30_63ff, 0x5400_6ea9], 0),
            (&[0xf940_0b90, 0xeb30_63ff], 0),
        ];
        for (words, expected) in cases {
            assert_eq!(after_stack_check(Machine::Aarch64, &bytes(words)), expected, "{words:08x?}");
        }
    }

    #[test]
    fn anything_else_is_probed_at_its_first_instruction() {
        let frameless = [0x55, 0x48, 0x89, 0xe5];
        let go_1_16 = [0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff, 0x48, 0x3b, 0x61, 0x10];
        let mixed_up = [0x4c, 0x8d, 0x64, 0x24, 0xd8, 0x49, 0x3b, 0x66, 0x18, 0x0f, 0x86, 0, 0, 0, 0];
        for code in [&frameless[..], &go_1_16, &mixed_up, &[], &[0x49], &[0x49, 0x3b, 0x66, 0x10]] {
            assert_eq!(after_stack_check(Machine::X86_64, code), 0, "{code:02x?}");
            assert_eq!(after_stack_check(Machine::Aarch64, code), 0, "{code:02x?}");
        }
    }
}
