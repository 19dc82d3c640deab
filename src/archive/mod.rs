//! The archive that proves itself: audit blobs, signed digests that name them, and the checks that need nobody's word.
//!
//! | file | owns |
//! |---|---|
//! | `blob` | names and bytes of blobs |
//! | `digest`, `merkle`, `hash`, `time` | every byte of a digest object |
//! | `sign`, `trust`, `keygen` | who signs, and whose signature counts |
//! | `chain`, `step` | which digest comes next (the write side, a state machine) |
//! | `store` | puts, surveys, the head to begin from, the anchor (edge) |
//! | `verify`, `export` | the read side (edge) |
//!
//! The order that everything rests on: a blob is stored, then a digest that names it, then the delivery is acked. All
//! files but the edges are pure. `docs/archive-format.md` specifies the formats.

pub mod blob;
pub mod chain;
pub mod digest;
pub mod export;
pub mod hash;
pub mod keygen;
pub mod merkle;
pub mod sign;
pub mod step;
pub mod store;
pub mod time;
pub mod trust;
pub mod verify;

pub use blob::{BlobFields, blob_path, conflict_path, render_blob};
pub use chain::{Ask, Chain, Identity, Outcome, Sealed, Settings, Settled, Step, Survey};
pub use digest::{Entry, Hash};
pub use export::export;
pub use keygen::{Keygen, keygen, rotate};
pub use sign::{Algorithm, KeyFile, Signer};
pub use store::Place;
pub use trust::Trust;
pub use verify::{Options, Report, Verdict, verify};

/// Where digests and heads lie below the prefix.
pub const INTEGRITY: &str = "_integrity/v1";

/// What a report or a custody record names as its author.
pub const PROGRAM: &str = concat!("lakehead ", env!("CARGO_PKG_VERSION"));

fn under(prefix: &str, rest: &str) -> String {
    if prefix.is_empty() { rest.to_owned() } else { format!("{prefix}/{rest}") }
}

/// The folder of all digests and heads.
pub fn integrity_folder(prefix: &str) -> String {
    under(prefix, INTEGRITY)
}

/// The path of digest `seq` of a chain.
pub fn chain_name(prefix: &str, chain_id: &str, seq: u64) -> String {
    under(prefix, &format!("{INTEGRITY}/chain={chain_id}/{seq:020}.dsse.json"))
}

/// The path of a head's copy; `date` is `YYYY-MM-DD`.
pub fn head_name(prefix: &str, date: &str, chain_id: &str, seq: u64) -> String {
    under(prefix, &format!("{INTEGRITY}/heads/date={date}/{chain_id}-{seq:020}.dsse.json"))
}
