//! What travels from a source to the loop: deliveries in, decoded blocks out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::budget::Charge;
use crate::batch::receipts::ChannelId;
use crate::clock::Micros;
use crate::event::{Reason, Transport};
use crate::layout::row::Identity;

/// A raw message with what the transport says of it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The body as received.
    pub body: Bytes,
    /// Its delivery tag; lines of one NDJSON block share one.
    pub tag: u64,
    /// True if it may have been handed to somebody before.
    pub flagged: bool,
    /// How often it was delivered, this time included, as far as is known.
    pub attempt: u32,
    /// Where in its source it stands: the delivery tag, or the line.
    pub position: i64,
    /// AMQP's properties; none for NDJSON.
    pub properties: Option<Box<Properties>>,
}

impl Delivery {
    /// As the decoder reads it.
    pub fn received(&self) -> Received<'_> {
        Received {
            body: &self.body,
            tag: self.tag,
            flagged: self.flagged,
            attempt: self.attempt,
            position: self.position,
            properties: self.properties.as_deref(),
        }
    }
}

/// A [`Delivery`], borrowed: the lines of a file lie in one buffer.
#[derive(Debug, Clone, Copy)]
pub struct Received<'r> {
    /// The body as received.
    pub body: &'r [u8],
    /// Its delivery tag.
    pub tag: u64,
    /// True if it may have been handed to somebody before.
    pub flagged: bool,
    /// How often it was delivered, this time included.
    pub attempt: u32,
    /// Where in its source it stands.
    pub position: i64,
    /// AMQP's properties.
    pub properties: Option<&'r Properties>,
}

/// Where the deliveries of a block come from.
#[derive(Debug)]
pub struct Origin {
    /// The channel.
    pub channel: ChannelId,
    /// When the first of them was received.
    pub received_at: Micros,
    /// The part of the memory budget that they hold.
    pub charge: Charge,
    /// Bytes of all bodies, or a little more.
    pub bytes: usize,
}

/// What AMQP says of a message.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Properties {
    /// The routing key.
    pub routing_key: String,
    /// The message-id.
    pub message_id: Option<String>,
    /// The correlation-id.
    pub correlation_id: Option<String>,
    /// The timestamp, in seconds since the epoch.
    pub timestamp: Option<i64>,
    /// The headers, as a JSON object.
    pub headers: Option<String>,
}

/// Keys under which the quarantine keeps AMQP's properties among the headers; no header that is sent begins so.
const KEPT: [&str; 3] = ["@messageId", "@correlationId", "@timestamp"];

impl Properties {
    /// What of them an event is read with.
    pub fn transport(properties: Option<&Properties>) -> Transport<'_> {
        Transport {
            routing_key: properties.map(|p| p.routing_key.as_str()),
            message_id: properties.and_then(|p| p.message_id.as_deref()),
            correlation_id: properties.and_then(|p| p.correlation_id.as_deref()),
            timestamp: properties.and_then(|p| p.timestamp),
        }
    }

    /// The headers as a JSON object for the quarantine, with the properties that reading an event depends on among them.
    pub fn kept(&self) -> String {
        let headers = self.headers.as_deref().and_then(|h| serde_json::from_str(h).ok());
        let mut all: Map<String, Value> = headers.unwrap_or_default();
        let texts = [self.message_id.as_deref(), self.correlation_id.as_deref()].map(|t| t.map(Value::from));
        let values = texts.into_iter().chain([self.timestamp.map(Value::from)]);
        for (key, value) in KEPT.into_iter().zip(values) {
            if let Some(value) = value {
                all.insert(key.to_owned(), value);
            }
        }
        Value::Object(all).to_string()
    }

    /// The properties of a delivery that [`Properties::kept`] recorded.
    pub fn restored(routing_key: &str, kept: &str) -> Properties {
        let mut all: Map<String, Value> = serde_json::from_str(kept).unwrap_or_default();
        let [message_id, correlation_id, timestamp] = KEPT.map(|key| all.shift_remove(key));
        let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        Properties {
            routing_key: routing_key.to_owned(),
            message_id: text(message_id),
            correlation_id: text(correlation_id),
            timestamp: timestamp.as_ref().and_then(Value::as_i64),
            headers: (!all.is_empty()).then(|| Value::Object(all).to_string()),
        }
    }
}

/// Deliveries of one channel, in order.
#[derive(Debug)]
pub struct Bundle {
    /// The channel.
    pub channel: ChannelId,
    /// The deliveries.
    pub deliveries: Vec<Delivery>,
    /// When the first of them was received.
    pub received_at: Micros,
    /// The part of the memory budget that they hold.
    pub charge: Charge,
}

/// One row that a block holds.
#[derive(Debug, Clone)]
pub struct RowHead {
    /// Index of the layout.
    pub layout: u16,
    /// The delivery's tag.
    pub tag: u64,
    /// Its identity in the dataset.
    pub identity: Identity,
    /// Its event time.
    pub time: Micros,
    /// Its day, in days since the epoch.
    pub day: i32,
    /// True if the delivery was flagged.
    pub flagged: bool,
    /// True if the broker may soon drop the message.
    pub urgent: bool,
    /// Where in the block its bytes stand.
    pub row: (u32, u32),
    /// Where in the block the text of its partition column stands.
    pub partition: Option<(u32, u32)>,
    /// Set on a quarantine row whose event has an identity in the dataset that refused it: if it was handed over before,
    /// it may have landed there.
    pub look_first: Option<Box<LookFirst>>,
}

/// Where to look before a redelivered event is quarantined.
#[derive(Debug, Clone)]
pub struct LookFirst {
    /// Why it is refused.
    pub reason: Reason,
    /// What stands for it in the dataset: a row with identity and partition alone, which never lands.
    pub stand_in: RowHead,
}

/// One blob that a block holds.
#[derive(Debug, Clone)]
pub struct BlobDraft {
    /// Index of the layout.
    pub layout: u16,
    /// The delivery's tag.
    pub tag: u64,
    /// Hash of path and content.
    pub identity: Identity,
    /// Where it goes, below the store's root.
    pub path: String,
    /// Its content.
    pub bytes: Bytes,
    /// Event time.
    pub time: Micros,
    /// Tenant, for the digest.
    pub tenant: Option<String>,
}

/// A bundle, decoded.
#[derive(Debug)]
pub struct Block {
    /// The channel.
    pub channel: ChannelId,
    /// When the first delivery was received.
    pub received_at: Micros,
    /// Bytes of all rows.
    pub bytes: Vec<u8>,
    /// The rows, in the order of the deliveries.
    pub rows: Vec<RowHead>,
    /// The blobs, in the order of the deliveries.
    pub blobs: Vec<BlobDraft>,
    /// Each tag once, with the number of rows and blobs that wait for it.
    pub tags: Vec<(u64, u32)>,
    /// What there was to count.
    pub counts: Counts,
    /// The part of the memory budget that the bundle held.
    pub charge: Charge,
}

/// What decoding had to count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries.
    pub deliveries: u64,
    /// Deliveries that were flagged.
    pub flagged: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Deliveries that are nobody's business here: outside a backfill's span.
    pub skipped: u64,
    /// Refused, by reason.
    pub quarantined: BTreeMap<Reason, u64>,
    /// Types that the catalog does not know.
    pub unknown: BTreeMap<Arc<str>, u64>,
    /// Violations of the catalog, by event type and path.
    pub violations: BTreeMap<(Arc<str>, String), u64>,
}

impl Counts {
    /// Takes back that a delivery was refused: it is not certain yet.
    pub fn put_off(&mut self, reason: Reason) {
        if let Some(n) = self.quarantined.get_mut(&reason) {
            *n -= 1;
            if *n == 0 {
                self.quarantined.remove(&reason);
            }
        }
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: Counts) {
        self.deliveries += other.deliveries;
        self.flagged += other.flagged;
        self.bytes += other.bytes;
        self.skipped += other.skipped;
        for (k, v) in other.quarantined {
            *self.quarantined.entry(k).or_default() += v;
        }
        for (k, v) in other.unknown {
            *self.unknown.entry(k).or_default() += v;
        }
        for (k, v) in other.violations {
            *self.violations.entry(k).or_default() += v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_quarantine_keeps_is_restored() {
        let all = Properties {
            routing_key: "auth.logout".into(),
            message_id: Some("m".into()),
            correlation_id: Some("c".into()),
            timestamp: Some(1_769_169_600),
            headers: Some(r#"{"x-delivery-count":2}"#.into()),
        };
        let bare = Properties { routing_key: "auth.logout".into(), ..Properties::default() };
        for properties in [all, bare] {
            let restored = Properties::restored("auth.logout", &properties.kept());
            assert_eq!(format!("{restored:?}"), format!("{properties:?}"));
        }
    }
}
