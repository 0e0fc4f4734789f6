//! One file per format, and what they draw with.

pub(super) mod chart;
pub(super) mod flame;
pub(super) mod html;
pub(super) mod json;
pub(super) mod markdown;
pub(super) mod terminal;
