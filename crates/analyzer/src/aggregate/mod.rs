//! Group-bys over the joined rows. Polars stays in this folder: what goes in and comes out are plain rows.

mod calls;
mod churn;
mod faults;
mod frame;
mod weighted;

pub(crate) use calls::{CallKey, CallRow, calls_by_phase};
pub(crate) use churn::{RefaultRow, churn};
pub(crate) use faults::{CellKey, FaultAggregates, GroupRow, KindRow, Window, faults};

/// Result with the error of the table library.
pub(crate) type Result<T> = polars::prelude::PolarsResult<T>;
