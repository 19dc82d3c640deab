//! What a delivery says: JSON, envelope or flat, and the catalog of event types. Pure: no runtime, no network, no clock.

pub mod json;
mod reason;

pub use reason::{Defect, Reason};
