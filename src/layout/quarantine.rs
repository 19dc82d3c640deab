//! Rows of the quarantine: what cannot be landed, as received, with the reason.

use super::row::{IdentityHash, IdentityKey, RowWriter};
use crate::clock::Micros;
use crate::event::Defect;

/// What is known of a delivery that cannot be landed.
#[derive(Debug, Clone, Copy)]
pub struct Rejected<'a> {
    /// Why.
    pub defect: &'a Defect,
    /// The body as received.
    pub body: &'a [u8],
    /// Lower-case hex of the body's SHA-256.
    pub body_sha256: &'a str,
    /// Routing key, if the transport has one.
    pub routing_key: Option<&'a str>,
    /// AMQP headers as a JSON object.
    pub headers: Option<&'a str>,
    /// The consumer that received it.
    pub consumer: &'a str,
    /// The layout that refused it; none if no layout was reached.
    pub layout: Option<&'a str>,
    /// As far as it could be read.
    pub event_id: Option<&'a str>,
    /// As far as it could be read.
    pub event_type: Option<&'a str>,
    /// As far as it could be read.
    pub tenant: Option<&'a str>,
    /// Queue or file.
    pub source: &'a str,
    /// Delivery tag or line.
    pub position: i64,
    /// How often it was delivered, as far as is known; at least 1.
    pub attempt: i64,
    /// Now.
    pub at: Micros,
}

/// Number of columns of the quarantine; the layout's file has them in the order in which [`Rejected::write`] writes.
pub const COLUMNS: usize = 15;

impl Rejected<'_> {
    /// Appends the row to `out` and returns its identity: quarantine rows are never dropped as repeats within one
    /// process unless reason, consumer, layout and body are the same.
    pub fn write(&self, key: IdentityKey, cells: &mut Vec<(u32, u32)>, out: &mut Vec<u8>) -> u128 {
        let mut row = RowWriter::begin(out, cells, COLUMNS);
        let optional = |row: &mut RowWriter<'_>, value: Option<&str>| match value {
            Some(text) => row.bytes(text.as_bytes()),
            None => row.null(),
        };
        row.bytes(self.defect.reason.as_str().as_bytes());
        row.bytes(self.defect.detail.as_bytes());
        row.bytes(self.body);
        row.bytes(self.body_sha256.as_bytes());
        row.bytes(self.routing_key.unwrap_or("").as_bytes());
        row.bytes(self.headers.unwrap_or("{}").as_bytes());
        row.bytes(self.consumer.as_bytes());
        optional(&mut row, self.layout);
        optional(&mut row, self.event_id);
        optional(&mut row, self.event_type);
        optional(&mut row, self.tenant);
        row.bytes(self.source.as_bytes());
        row.fixed(self.position.to_le_bytes());
        row.fixed(self.attempt.to_le_bytes());
        row.fixed(self.at.to_le_bytes());
        let mut identity = IdentityHash::new(key);
        identity.add(Some(self.defect.reason.as_str().as_bytes()));
        identity.add(Some(self.consumer.as_bytes()));
        identity.add(self.layout.map(str::as_bytes));
        identity.add(Some(self.source.as_bytes()));
        identity.add(self.routing_key.map(str::as_bytes));
        identity.add(Some(self.body_sha256.as_bytes()));
        identity.finish()
    }
}
