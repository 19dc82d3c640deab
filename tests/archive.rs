//! The archive from outside: written through a store, verified, mutated, exported, and checked by a program that shares
//! none of our code.

#[path = "archive/crash.rs"]
mod crash;
#[path = "archive/heads.rs"]
mod heads;
#[path = "archive/idle.rs"]
mod idle;
#[path = "archive/independent.rs"]
mod independent;
#[path = "archive/mutations.rs"]
mod mutations;
#[path = "archive/names.rs"]
mod names;
#[path = "archive/scale.rs"]
mod scale;
#[path = "archive/support.rs"]
mod support;
#[path = "archive/trust.rs"]
mod trust;
#[path = "archive/verify.rs"]
mod verify;
