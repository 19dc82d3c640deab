//! Nothing lost, nothing twice, whatever dies: two replicas on one broker and one store, killed, frozen, cut off and
//! stalled at random moments, while events come in. Then DuckDB counts.
//!
//! The short form runs with the other tests. `scripts/kill-anywhere` runs the long one, as large as its environment says.
//! Every run prints its seed; the same seed deals the same faults, though processes and sockets never run alike twice.
#![cfg(unix)]

#[path = "kill_anywhere/count.rs"]
mod count;
#[path = "kill_anywhere/plan.rs"]
mod plan;
#[path = "kill_anywhere/publisher.rs"]
mod publisher;
#[path = "kill_anywhere/replica.rs"]
mod replica;
mod support;
#[path = "kill_anywhere/watch.rs"]
mod watch;
#[path = "kill_anywhere/world.rs"]
mod world;

use plan::{Plan, StoreKind};

#[test]
fn nothing_is_lost_or_doubled_on_s3() {
    world::run(&Plan::short(StoreKind::S3));
}

#[test]
fn nothing_is_lost_or_doubled_on_azure() {
    world::run(&Plan::short(StoreKind::Azure));
}

#[test]
#[ignore = "takes as long as it is told to: scripts/kill-anywhere"]
fn long() {
    world::run(&Plan::from_env());
}
