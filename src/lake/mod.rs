//! The lake as it lies in the store: what datasets there are, and what they hold. Reads only.

pub mod quarantine;
mod survey;

pub use survey::{Dataset, Survey, survey};
