//! Mishaps that tests ask for, in debug builds only: a body that holds the word they name kills or hangs its decoder, or
//! its rows their encoder.

use std::sync::OnceLock;

use crate::batch::rows::Rows;
use crate::layout::QUARANTINE;

/// The variable that names them: `abort:WORD`, `panic:WORD`, `hang:WORD` or `encoder:WORD`, with commas between.
pub const VARIABLE: &str = "DEBUG_LAKEHEAD_MISHAPS";

fn asked_for() -> &'static [(String, String)] {
    static ASKED: OnceLock<Vec<(String, String)>> = OnceLock::new();
    ASKED.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let pairs = text.split(',').filter_map(|one| one.split_once(':'));
        pairs.map(|(what, word)| (what.to_owned(), word.to_owned())).collect()
    })
}

/// Lets happen what a test wants to happen to this body.
#[allow(clippy::panic)]
pub fn befall(body: &[u8]) {
    for (what, word) in asked_for() {
        if memchr::memmem::find(body, word.as_bytes()).is_some() {
            match what.as_str() {
                "abort" => std::process::abort(),
                "hang" => std::thread::sleep(std::time::Duration::MAX),
                "panic" => panic!("a test asked for this"),
                _ => {}
            }
        }
    }
}

/// Lets happen what a test wants to happen to whoever encodes these rows. Not in the quarantine: there they are bytes.
#[allow(clippy::panic)]
pub fn befall_encoder(dataset: &str, rows: &Rows) {
    if dataset == QUARANTINE {
        return;
    }
    for (_, word) in asked_for().iter().filter(|(what, _)| what == "encoder") {
        let holds = |row: &[u8]| memchr::memmem::find(row, word.as_bytes()).is_some();
        if rows.index().any(|at| holds(rows.row(at))) {
            panic!("a test asked for this");
        }
    }
}
