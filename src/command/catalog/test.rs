//! `lakehead catalog test`: what would become of every event of a file.

use std::sync::Arc;

use serde_json::{Value, json};

use super::show::{indented, landing_text};
use super::{Setup, output};
use crate::clock::Clock;
use crate::command::trial::{Trial, Verdict};
use crate::error::{Error, Result};
use crate::pipeline::decode::Route;
use crate::source::ndjson::read::{LineReader, expand, lines};
use crate::units::format_count;

/// What was seen, over all events.
#[derive(Debug, Default)]
struct Tally {
    events: u64,
    landing: u64,
    refused: u64,
    violating: u64,
    unknown: u64,
}

pub(super) fn test(setup: &Setup, file: &str, json: bool) -> Result<()> {
    let mut trial = Trial::new(rules(setup, file)?);
    let mut tally = Tally::default();
    for input in expand(&[file.to_owned()])? {
        let mut reader = LineReader::open(&input, Arc::default())?;
        let mut buffer = Vec::new();
        while let Some(block) = reader.next_block(buffer)? {
            for (line, body) in lines(&block) {
                let verdict = trial.of(body, None, Clock::System.now());
                tally.add(&verdict);
                output::print(&if json { as_json(line, &verdict)? } else { as_text(line, &verdict) })?;
            }
            buffer = block.recycle();
        }
    }
    eprintln!(
        "{} events: {} land, {} would be quarantined, {} differ from the catalog, {} of unknown types",
        format_count(tally.events),
        format_count(tally.landing),
        format_count(tally.refused),
        format_count(tally.violating),
        format_count(tally.unknown)
    );
    Ok(())
}

/// Events go where the configured consumers would land them live.
fn rules(setup: &Setup, source: &str) -> Result<crate::pipeline::decode::Rules> {
    let consumer = |c: &crate::config::Consumer| Ok((c.bindings.clone(), setup.layout_indices(&c.layouts)?));
    let consumers = setup.config.consumers.iter().map(consumer).collect::<Result<_>>()?;
    Ok(setup.rules(Route::ByBinding(consumers), "any consumer", source, crate::command::identity_key()))
}

impl Tally {
    fn add(&mut self, verdict: &Verdict) {
        self.events += 1;
        self.landing += u64::from(!verdict.lands.is_empty());
        self.refused += u64::from(!verdict.refused.is_empty());
        self.violating += u64::from(!verdict.violations.is_empty());
        self.unknown += u64::from(verdict.event_type.is_some() && !verdict.known);
    }
}

fn as_json(line: i64, verdict: &Verdict) -> Result<String> {
    let value = serde_json::to_value(verdict).map_err(|e| Error::bug("cannot print").source(e))?;
    let mut all = json!({ "line": line });
    if let (Value::Object(all), Value::Object(value)) = (&mut all, value) {
        all.extend(value);
    }
    output::json_line(&all)
}

fn as_text(line: i64, verdict: &Verdict) -> String {
    let mut out = format!("line {line}: {}", verdict.event_type.as_deref().unwrap_or("no event type"));
    if verdict.event_type.is_some() && !verdict.known {
        out.push_str(" (not in the catalog)");
    }
    out.push('\n');
    for landing in &verdict.lands {
        out.push_str(&format!("  lands in {}, {}\n", landing.dataset, landing.path));
        out.push_str(&indented(&landing_text(landing)));
    }
    for refusal in &verdict.refused {
        let by = refusal.layout.as_ref().map_or_else(String::new, |layout| format!(" of {layout}"));
        out.push_str(&format!("  quarantined instead{by}: {}: {}\n", refusal.reason, refusal.detail));
    }
    for violation in &verdict.violations {
        out.push_str(&format!("  differs from the catalog: {violation}\n"));
    }
    out
}
