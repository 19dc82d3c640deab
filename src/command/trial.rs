//! Trials: what would become of one event, decoded exactly as live and stored nowhere.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::clock::Micros;
use crate::event::json::Scanner;
use crate::event::time::format_micros;
use crate::event::{Event, EventType, validate};
use crate::layout::partition::Partition;
use crate::pipeline::Budget;
use crate::pipeline::decode::{Decoder, Rules};
use crate::pipeline::delivery::{Block, Origin, Properties, Received, RowHead};

/// Decodes events without storing them.
#[derive(Debug)]
pub struct Trial {
    rules: Arc<Rules>,
    decoder: Decoder,
    scanner: Scanner,
    budget: Budget,
}

/// What would become of one event.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Its type, as far as it could be read.
    pub event_type: Option<String>,
    /// Its id, sent or derived.
    pub id: Option<String>,
    /// When it happened, ISO 8601 in UTC.
    pub time: Option<String>,
    /// True if the catalog has its type.
    pub known: bool,
    /// Where it would land.
    pub lands: Vec<Landing>,
    /// Why it would be quarantined, by layout.
    pub refused: Vec<Refusal>,
    /// How it differs from its entry in the catalog.
    pub violations: Vec<String>,
}

/// One row or blob that an event becomes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Landing {
    /// Its dataset.
    pub dataset: String,
    /// Below the dataset the folder of a row's file; below the root the name of a blob.
    pub path: String,
    /// The row, by column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<Map<String, Value>>,
    /// The blob's content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
}

/// Why an event would be quarantined.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The reason, for counting.
    pub reason: String,
    /// What was seen where.
    pub detail: String,
    /// The layout that refuses it; none if it reaches none.
    pub layout: Option<String>,
}

impl Trial {
    /// Trials under these rules.
    pub fn new(rules: Rules) -> Trial {
        let rules = Arc::new(rules);
        let decoder = Decoder::new(Arc::clone(&rules));
        Trial { rules, decoder, scanner: Scanner::default(), budget: Budget::new(usize::MAX) }
    }

    /// What would become of `body` at `now`; without AMQP's properties it is taken for a line of NDJSON.
    pub fn of(&mut self, body: &[u8], properties: Option<&Properties>, now: Micros) -> Verdict {
        let delivery = Received { body, tag: 1, flagged: false, attempt: 1, position: 1, properties };
        let origin =
            Origin { channel: 0, received_at: now, charge: self.budget.charge(0), bytes: body.len() };
        let block = self.decoder.decode_all(origin, std::iter::once(delivery), now);
        let mut verdict = Verdict::default();
        self.describe(body, properties, &mut verdict);
        for row in &block.rows {
            if row.layout == self.rules.layouts.quarantine() {
                verdict.refused.push(self.refusal(&block, row));
            } else {
                verdict.lands.push(self.landing(&block, row));
            }
        }
        for blob in &block.blobs {
            verdict.lands.push(Landing {
                dataset: self.rules.layouts.get(blob.layout).name.clone(),
                path: blob.path.clone(),
                row: None,
                blob: Some(String::from_utf8_lossy(&blob.bytes).into_owned()),
            });
        }
        verdict
    }

    /// Type, id, time and violations; what the decoder has no use for once it has the row.
    fn describe(&mut self, body: &[u8], properties: Option<&Properties>, verdict: &mut Verdict) {
        let Ok(document) = self.scanner.scan(body, self.rules.limits) else { return };
        let catalog = &self.rules.catalog;
        let time_field = |event_type: &str| catalog.get(event_type).and_then(EventType::time_field);
        let transport = Properties::transport(properties);
        let Ok(event) = Event::decode(body, document.root(), transport, time_field) else { return };
        let described = catalog.get(&event.event_type);
        if let Some(described) = described {
            validate::validate(described, event.root, &mut |v| verdict.violations.push(v.to_string()));
        }
        verdict.known = described.is_some();
        verdict.time = Some(format_micros(event.time.micros()));
        verdict.id = Some(event.id.into_owned());
        verdict.event_type = Some(event.event_type.into_owned());
    }

    fn landing(&self, block: &Block, row: &RowHead) -> Landing {
        let layout = self.rules.layouts.get(row.layout);
        let text = |(from, to): (u32, u32)| &block.bytes[from as usize..to as usize];
        let value = row.partition.map(|span| String::from_utf8_lossy(text(span)).as_ref().into());
        let partition = Partition { layout: row.layout, day: row.day, value };
        Landing {
            dataset: layout.name.clone(),
            path: partition.path(layout),
            row: Some(layout.show(text(row.row))),
            blob: None,
        }
    }

    fn refusal(&self, block: &Block, row: &RowHead) -> Refusal {
        let layout = self.rules.layouts.get(row.layout);
        let shown = layout.show(&block.bytes[row.row.0 as usize..row.row.1 as usize]);
        let text = |name: &str| shown.get(name).and_then(Value::as_str).map(str::to_owned);
        Refusal {
            reason: text("reason").unwrap_or_default(),
            detail: text("detail").unwrap_or_default(),
            layout: text("layout"),
        }
    }
}
