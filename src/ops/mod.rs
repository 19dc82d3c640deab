//! What an operator sees of a running process: log lines, metrics, health.

pub mod health;
pub mod http;
pub mod metrics;
pub mod telemetry;
