//! What a delivery says: JSON, envelope or flat, and the catalog of event types. Pure: no runtime, no network, no clock.

pub mod envelope;
pub mod json;
mod reason;
pub mod time;

pub use envelope::{Event, Transport};
pub use reason::{Defect, Reason};
