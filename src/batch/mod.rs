//! Batches: the open rows of a partition, the receipts that wait for them, and their encoding. Pure.
//!
//! Owns what is in memory between a decoder and the store. Does not own when a batch is sealed or landed: the pipeline
//! decides that.

mod arrays;
pub mod encode;
pub mod identities;
pub mod receipts;
pub mod rows;
mod sort;
