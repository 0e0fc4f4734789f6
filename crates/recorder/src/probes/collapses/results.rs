//! What this kernel calls the ends of a collapse, and how large its huge pages are.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libbpf_rs::btf::{Btf, types::Enum};

use crate::host::page_size;

/// The number differs between kernels, the name does not: it is read from the BTF of the running one, at the first
/// collapse.
pub(super) fn name(number: u32) -> String {
    static NAMES: OnceLock<BTreeMap<u32, String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| of_kernel().unwrap_or_default());
    names.get(&number).cloned().unwrap_or_else(|| number.to_string())
}

fn of_kernel() -> Option<BTreeMap<u32, String>> {
    let btf = Btf::from_vmlinux().ok()?;
    let results = btf.type_by_name::<Enum<'_>>("scan_result")?;
    let member = |name: Option<&std::ffi::OsStr>, value| Some((u32::try_from(value).ok()?, short(name?.to_str()?)));
    Some(results.iter().filter_map(|m| member(m.name, m.value)).collect())
}

/// `SCAN_EXCEED_NONE_PTE` as `exceed_none_pte`.
fn short(name: &str) -> String {
    name.strip_prefix("SCAN_").unwrap_or(name).to_lowercase()
}

/// Small pages in a huge one; `None` without transparent huge pages.
pub(super) fn huge_page_pages() -> Option<u64> {
    static PAGES: OnceLock<Option<u64>> = OnceLock::new();
    *PAGES.get_or_init(|| {
        let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").ok()?;
        text.trim().parse::<u64>().ok()?.checked_div(page_size()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_names_its_results() {
        // Without BTF, or without transparent huge pages, the number stands for itself.
        if of_kernel().is_some() {
            assert_eq!((name(1), name(u32::MAX)), ("succeed".to_owned(), u32::MAX.to_string()));
        }
        assert_eq!(short("SCAN_EXCEED_NONE_PTE"), "exceed_none_pte");
    }
}
