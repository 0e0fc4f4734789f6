use serde::Serialize;

use super::finding::CodeLocation;

/// Size class of a free gap between mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapClass {
    /// More than 128 MiB.
    Large,
    /// 4 to 128 MiB.
    Medium,
    /// Less than 4 MiB.
    Small,
}

/// Gaps at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GapPoint {
    /// When.
    pub ts: i64,
    /// Largest free gap of user address space.
    pub largest_bytes: u64,
    /// Number and bytes of gaps in the classes large, medium, small.
    pub classes: [(u64, u64); 3],
    /// VMAs.
    pub vmas: u64,
    /// Mapped bytes, PROT_NONE included.
    pub mapped_bytes: u64,
    /// Mapped bytes, PROT_NONE excluded.
    pub accessible_bytes: u64,
}

/// The gap histogram of a process at one moment: log2 classes.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct GapHistogram {
    /// `counts[i]`: gaps of `[2^i, 2^(i+1))` bytes.
    pub counts: Vec<u64>,
    /// Bytes in them.
    pub bytes: Vec<u64>,
}

/// Mapped bytes charged to one place in the code.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GrowthByOwner {
    /// Who mapped; null for maps older than the capture.
    pub owner: Option<CodeLocation>,
    /// Calls.
    pub calls: u64,
    /// Bytes mapped in all.
    pub mapped_bytes: u64,
    /// Bytes still mapped at the end.
    pub live_bytes: u64,
}

/// The address space of a process over the capture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AddressSpace {
    /// Process.
    pub pid: u32,
    /// Over time, thinned to at most 500 points: the smallest `largest_bytes` of each stretch is kept.
    pub points: Vec<GapPoint>,
    /// At the end of the capture.
    pub histogram: GapHistogram,
    /// Most VMAs at any moment.
    pub max_vmas: u64,
    /// `vm.max_map_count`; null if unknown.
    pub max_map_count: Option<u64>,
    /// Who mapped, most bytes first.
    pub owners: Vec<GrowthByOwner>,
}
