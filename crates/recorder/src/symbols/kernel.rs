//! Names for kernel addresses from `/proc/kallsyms`.

use std::io::BufRead;

use super::{Ip, Outcome, Strings, Symbol, SymbolSource, Unresolved};

/// Farthest that an address may be from its symbol: beyond is a hole between
/// modules, not a function.
const MAX_FUNCTION_BYTES: u64 = 1 << 20;
/// Longest line that is read; the kernel's names have at most 512 bytes.
const MAX_LINE_BYTES: u64 = 4096;

/// The best symbol so far for the addresses from one to the next.
#[derive(Default)]
struct Best {
    addr: u64,
    is_text: bool,
    name: String,
    module: String,
}

/// Name the addresses from text in the form of `/proc/kallsyms`, in one pass
/// that keeps one candidate per address: the table has 200,000 lines, and they
/// are sorted only within each module.
pub(super) fn resolve(strings: &mut Strings, mut kallsyms: impl BufRead, ips: &[Ip]) -> Vec<Outcome> {
    let mut addrs: Vec<u64> = ips.iter().map(|ip| ip.lookup_addr()).collect();
    addrs.sort_unstable();
    addrs.dedup();
    let mut best: Vec<Option<Best>> = addrs.iter().map(|_| None).collect();
    let (mut text_start, mut any_address) = (None, false);
    let mut line = Vec::new();
    while read_line(&mut kallsyms, &mut line) {
        let Some((addr, kind, name, module)) = parse(&line) else {
            continue;
        };
        any_address |= addr != 0;
        if name == "_text" {
            text_start = Some(addr);
        }
        // A symbol competes for the first address at or after it; the best of
        // all earlier places is taken below.
        let slot = addrs.partition_point(|&wanted| wanted < addr);
        let Some(current) = best.get_mut(slot) else {
            continue;
        };
        let is_text = matches!(kind, b't' | b'T' | b'w' | b'W');
        let better = current.as_ref().is_none_or(|best| (addr, is_text) > (best.addr, best.is_text));
        if better && addr != 0 {
            // One candidate follows the other for most of the table: reuse.
            let best = current.get_or_insert_with(Best::default);
            (best.addr, best.is_text) = (addr, is_text);
            best.name.clear();
            best.name.push_str(name);
            best.module.clear();
            best.module.push_str(module);
        }
    }
    if !any_address {
        return ips.iter().map(|_| Outcome::Unnamed(Unresolved::KernelAddressesHidden)).collect();
    }
    ips.iter().map(|ip| outcome(strings, &addrs, &best, text_start, *ip)).collect()
}

fn outcome(strings: &mut Strings, addrs: &[u64], best: &[Option<Best>], text_start: Option<u64>, ip: Ip) -> Outcome {
    let wanted = ip.lookup_addr();
    let upto = addrs.partition_point(|&addr| addr <= wanted);
    // Symbols compete in address order of the slots: the last one wins.
    let found = best.get(..upto).unwrap_or_default().iter().rev().flatten().next();
    match found {
        Some(symbol) if symbol.is_text && wanted - symbol.addr < MAX_FUNCTION_BYTES => Outcome::Named(
            SymbolSource::Kallsyms,
            vec![Symbol {
                function: strings.intern(&symbol.name),
                file: None,
                line: None,
                module: strings.intern(&symbol.module),
                module_offset: text_start.and_then(|start| ip.addr.checked_sub(start)),
                function_addr: Some(symbol.addr),
                source: SymbolSource::Kallsyms,
            }],
        ),
        _ => Outcome::Unnamed(Unresolved::NoSymbol),
    }
}

/// Read one line without its end; `false` at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> bool {
    use std::io::Read;
    line.clear();
    matches!(input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line), Ok(n) if n > 0)
}

/// `address type name [\t[module]]`.
fn parse(line: &[u8]) -> Option<(u64, u8, &str, &str)> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let addr = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = *words.next()?.as_bytes().first()?;
    Some((addr, kind, words.next()?, words.next().unwrap_or("[kernel]")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::IpKind;
    use super::*;

    const KALLSYMS: &str = "ffffffff81000000 T _text\nffffffff81000100 T first\nffffffff81000200 t second\nffffffff81000300 D data\nffffffffa0000000 t in_module\t[mod]\nffffffff81000180 T late\n";

    fn names(text: &str, addrs: &[u64], kind: IpKind) -> Vec<String> {
        let ips: Vec<Ip> = addrs.iter().map(|&addr| Ip { addr, kind }).collect();
        resolve(&mut Strings::default(), text.as_bytes(), &ips)
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Named(_, symbols) => {
                    format!("{} {}", symbols[0].function, symbols[0].module)
                }
                Outcome::Unnamed(reason) => format!("{reason:?}"),
            })
            .collect()
    }

    #[test]
    fn nearest_text_symbol_before_the_address_wins() {
        let addrs = [
            0xffffffff81000100,
            0xffffffff8100017f,
            0xffffffff81000180,
            0xffffffff81000250,
            0xffffffff81000301,
            0xffffffffa0000010,
            0x1000,
            0xffffffffa0200000,
        ];
        let expected = [
            "first [kernel]",
            "first [kernel]",
            "late [kernel]",
            "second [kernel]",
            "NoSymbol",
            "in_module [mod]",
            "NoSymbol",
            "NoSymbol",
        ];
        assert_eq!(names(KALLSYMS, &addrs, IpKind::Exact), expected);
    }

    #[test]
    fn a_return_address_belongs_to_the_call_before_it() {
        assert_eq!(names(KALLSYMS, &[0xffffffff81000200], IpKind::Return), ["late [kernel]"]);
    }

    #[test]
    fn zeros_are_hidden_addresses_not_names() {
        let hidden = "0000000000000000 T _text\n0000000000000000 T first\n";
        assert_eq!(names(hidden, &[0xffffffff81000100], IpKind::Exact), ["KernelAddressesHidden"]);
    }

    #[test]
    fn damaged_lines_are_passed_over() {
        let damaged = "zzz\n\nffffffff81000100\nffffffff81000100 T\n\u{fffd}\nffffffff81000100 T ok\n";
        assert_eq!(names(damaged, &[0xffffffff81000101], IpKind::Exact), ["ok [kernel]"]);
    }
}
