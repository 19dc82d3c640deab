//! `lakehead suspects`: decodes what a running `lakehead run` sends it, and dies of it in its place.
//!
//! Nothing is landed. Each delivery on stdin is decoded and encoded as the consumer would, and answered with a byte; so
//! whoever is at the other end knows which of them it did not survive.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};

use super::setup::Setup;
use crate::batch::encode::{Footer, encode};
use crate::batch::rows::Rows;
use crate::cli::{Global, Suspects};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::layout::Layouts;
use crate::pipeline::Budget;
use crate::pipeline::decode::{Decoder, Route};
use crate::pipeline::delivery::{Block, Bundle};
use crate::pipeline::suspects::{WELL, read};

/// The command.
///
/// # Errors
/// A configuration that cannot be read, a consumer that it does not have, a parent that cannot be told.
pub(super) fn run(global: &Global, args: &Suspects) -> Result<ExitCode> {
    let setup = Setup::new(super::load_config(global)?)?;
    let consumers = &setup.config.consumers;
    let consumer = consumers.iter().find(|c| c.name == args.consumer);
    let consumer = consumer.ok_or_else(|| Error::config(format!("no consumer `{}`", args.consumer)))?;
    let layouts = setup.layout_indices(&consumer.layouts)?;
    let rules = setup.rules(Route::Fixed(layouts), &consumer.name, &consumer.queue, super::identity_key());
    let mut decoder = Decoder::new(Arc::new(rules));
    prefer_to_be_killed();

    let (send, deliveries) = mpsc::sync_channel(0);
    std::thread::spawn(move || {
        let mut input = BufReader::new(io::stdin());
        while let Ok(Some(delivery)) = read(&mut input) {
            if send.send(delivery).is_err() {
                return;
            }
        }
        // Nobody waits for an answer any more, whatever is being decoded.
        std::process::exit(0);
    });
    let budget = Budget::new(usize::MAX);
    let told = |e| Error::unreachable("cannot answer").source(e);
    well().map_err(told)?;
    for delivery in deliveries {
        let now = Clock::System.now();
        let charge = budget.charge(delivery.body.len());
        let bundle = Bundle { channel: 0, deliveries: vec![delivery], received_at: now, charge };
        let block = decoder.decode(bundle, now);
        encode_all(&block, &setup.layouts)?;
        well().map_err(told)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn well() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(&[WELL])?;
    out.flush()
}

fn encode_all(block: &Block, layouts: &Layouts) -> Result<()> {
    let mut batches: BTreeMap<u16, Rows> = BTreeMap::new();
    for head in &block.rows {
        let row = &block.bytes[head.row.0 as usize..head.row.1 as usize];
        batches.entry(head.layout).or_default().push(row, head.identity, head.time);
    }
    for (layout, mut rows) in batches {
        let layout = layouts.get(layout);
        #[cfg(debug_assertions)]
        crate::pipeline::mishap::befall_encoder(&layout.name, &rows);
        let footer = Footer {
            layout: layout.name.clone(),
            layout_version: layout.version,
            rules: None,
            batch: String::new(),
            rolled: None,
            rows: rows.len() as u64,
            span: rows.span(),
            fence: None,
        };
        encode(layout, &mut rows, &footer)?;
    }
    Ok(())
}

/// A body that eats all memory shall cost this process and no other.
fn prefer_to_be_killed() {
    // Elsewhere than on Linux there is no such file, and the system chooses.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}
