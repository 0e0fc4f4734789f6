//! The vocabulary of mtrace: what a capture consists of.
//!
//! * [`tables`]: one file per table; a table is a typed row whose columns carry unit and doc.
//! * [`capture`]: the directory `NAME.mtrace/` of Parquet segments and its `manifest.json`,
//!   the writer, the reader and the one-file packed form.
//!
//! This crate knows neither libbpf nor polars and builds on any operating system.

pub mod capture;
mod error;
mod schema_md;
pub mod table;
pub mod tables;

pub use error::{Error, Result};
pub use schema_md::schema_markdown;
