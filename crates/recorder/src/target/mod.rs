//! The processes that are recorded: starting one ([`launch`]), finding running ones ([`find`]), and the rule by which
//! others become targets ([`rule`]).

pub mod container;
pub mod find;
pub mod group;
pub mod launch;
pub(crate) mod rule;
