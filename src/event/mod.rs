//! What a delivery says: JSON, envelope or flat, and the catalog of event types. Pure: no runtime, no network, no clock.

pub mod catalog;
mod catalog_entry;
mod catalog_file;
pub mod envelope;
pub mod event_type;
pub mod export;
pub mod flaw;
pub mod format;
pub mod json;
mod reason;
pub mod sample;
mod sample_values;
pub mod schema;
pub mod time;
pub mod validate;

pub use envelope::{Event, Transport};
pub use event_type::EventType;
pub use reason::{Defect, Reason};
