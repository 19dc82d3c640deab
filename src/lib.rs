//! Lakehead lands domain events from RabbitMQ, exactly once, as typed Parquet in a data lake and as an immutable,
//! provable archive of JSON blobs. `ARCHITECTURE.md` has the map and the life of an event.
#![warn(missing_docs)]

pub mod archive;
pub mod batch;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod error;
pub mod event;
pub mod lake;
pub mod layout;
pub mod ops;
pub mod pipeline;
pub mod source;
pub mod store;
pub mod units;
