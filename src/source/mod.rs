//! Sources: where deliveries come from. Each speaks with the loop through a [`crate::pipeline::Port`].

pub mod amqp;
pub mod ndjson;
