//! The processes that are recorded: starting one ([`launch`]) and finding running ones ([`find`]).

pub mod find;
pub mod launch;
