//! From a bundle of deliveries to a block of rows and blobs. Pure and CPU-bound: runs off the async threads.
//!
//! One bad event never harms its neighbours: whatever is wrong with a delivery becomes a quarantine row of its own.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};

use super::delivery::{BlobDraft, Block, Bundle, Delivery, LookFirst, Origin, Properties, Received, RowHead};
use crate::archive::{BlobFields, blob_path, render_blob};
use crate::clock::Micros;
use crate::event::catalog::Catalog;
use crate::event::envelope::{Glimpse, hex};
use crate::event::json::{Limits, Scanner, is_rich};
use crate::event::{Defect, Event, EventType, Reason, Transport, time, validate};
use crate::layout::extract::{Extracted, Scratch};
use crate::layout::partition::{MAX_VALUE, encode};
use crate::layout::pattern::topic_matches;
use crate::layout::quarantine::Rejected;
use crate::layout::row::{IdentityHash, IdentityKey};
use crate::layout::{Format, Layouts};

/// Which layouts an event goes to.
#[derive(Debug, Clone)]
pub enum Route {
    /// These, as far as they take its type.
    Fixed(Vec<u16>),
    /// Those of every consumer whose bindings fit its routing key.
    ByBinding(Vec<(Vec<String>, Vec<u16>)>),
}

/// What the decoder of one consumer or backfill needs to know.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// All layouts.
    pub layouts: Arc<Layouts>,
    /// Where events go.
    pub route: Route,
    /// Name of the consumer, for the quarantine.
    pub consumer: String,
    /// Queue or file, for the quarantine.
    pub source: String,
    /// Largest body, in bytes.
    pub max_body: usize,
    /// Bounds on JSON.
    pub limits: Limits,
    /// How far ahead an event time may be, in microseconds.
    pub max_future: Micros,
    /// Folder of the archive.
    pub audit_prefix: String,
    /// Only events of this span (from, to) are wanted; others are skipped.
    pub span: Option<(Micros, Micros)>,
    /// The process's key of identities.
    pub key: IdentityKey,
}

/// From this delivery on, a message is landed at once.
pub const URGENT_ATTEMPT: u32 = 10;

/// A body as most are, in bytes.
const USUAL_BODY: usize = 512;

/// Room for rows, as a share of what those of the last bundle took.
const SPARE: f64 = 1.05;

/// Held while a body of very many values is decoded: their index may be larger than the body, and nothing charges for it.
static RICH: Mutex<()> = Mutex::new(());

/// Most event types whose route is remembered.
const MAX_REMEMBERED: usize = 4096;

/// The decoder and its reusable memory; one per channel.
#[derive(Debug)]
pub struct Decoder {
    rules: Arc<Rules>,
    scanner: Scanner,
    scratch: Scratch,
    cells: Vec<(u32, u32)>,
    /// Which of `routed` an event type goes to.
    routes: HashMap<String, Range<usize>, RandomState>,
    routed: Vec<u16>,
    /// Bytes of rows for each byte of bodies, in the last bundle.
    share: f64,
    /// Deliveries of the next bundle that nobody may decode, by tag, and why.
    poison: HashMap<u64, String>,
}

impl Decoder {
    /// A decoder under these rules.
    pub fn new(rules: Arc<Rules>) -> Self {
        Decoder {
            rules,
            scanner: Scanner::default(),
            scratch: Scratch::default(),
            cells: Vec::new(),
            routes: HashMap::default(),
            routed: Vec::new(),
            share: 1.0,
            poison: HashMap::new(),
        }
    }

    /// A delivery of the next bundle is not to be decoded, but quarantined as poison.
    pub fn found_poison(&mut self, tag: u64, how: String) {
        self.poison.insert(tag, how);
    }

    /// Decodes a bundle at `now`.
    pub fn decode(&mut self, bundle: Bundle, now: Micros) -> Block {
        let Bundle { channel, deliveries, received_at, charge } = bundle;
        let bytes = deliveries.iter().map(|d| d.body.len()).sum();
        let origin = Origin { channel, received_at, charge, bytes };
        self.decode_all(origin, deliveries.iter().map(Delivery::received), now)
    }

    /// Decodes deliveries whose bodies lie somewhere, at `now`.
    pub fn decode_all<'r>(
        &mut self,
        origin: Origin,
        deliveries: impl Iterator<Item = Received<'r>>,
        now: Micros,
    ) -> Block {
        let mut block = Block {
            channel: origin.channel,
            received_at: origin.received_at,
            bytes: Vec::with_capacity((origin.bytes as f64 * self.share * SPARE) as usize),
            rows: Vec::with_capacity(deliveries.size_hint().0.max(origin.bytes / USUAL_BODY)),
            blobs: Vec::new(),
            tags: Vec::new(),
            counts: Default::default(),
            charge: origin.charge,
        };
        let mut scanner = std::mem::take(&mut self.scanner);
        // Once for all: decoders on other cores count the same references.
        let rules = Arc::clone(&self.rules);
        for delivery in deliveries {
            let before = block.rows.len() + block.blobs.len();
            block.counts.deliveries += 1;
            block.counts.bytes += delivery.body.len() as u64;
            block.counts.flagged += u64::from(delivery.flagged);
            let rich = is_rich(delivery.body);
            let alone = rich.then(|| RICH.lock().unwrap_or_else(PoisonError::into_inner));
            self.delivery(&rules, &mut scanner, delivery, now, &mut block);
            if rich {
                scanner = Scanner::default();
            }
            drop(alone);
            let added = (block.rows.len() + block.blobs.len() - before) as u32;
            match block.tags.last_mut() {
                Some((tag, count)) if *tag == delivery.tag => *count += added,
                _ => block.tags.push((delivery.tag, added)),
            }
        }
        self.scanner = scanner;
        if !block.bytes.is_empty() {
            self.share = block.bytes.len() as f64 / origin.bytes.max(1) as f64;
        }
        block
    }

    fn delivery(
        &mut self,
        rules: &Rules,
        scanner: &mut Scanner,
        delivery: Received<'_>,
        now: Micros,
        block: &mut Block,
    ) {
        if !self.poison.is_empty()
            && let Some(how) = self.poison.remove(&delivery.tag)
        {
            let defect = Defect::new(Reason::Poison, how);
            return self.reject(
                rules,
                delivery,
                Seen::Glimpse(&Glimpse::default()),
                None,
                &defect,
                now,
                block,
            );
        }
        #[cfg(debug_assertions)]
        super::mishap::befall(delivery.body);
        let transport = Properties::transport(delivery.properties);
        let event = read(rules, scanner, delivery.body, transport);
        match event {
            Err((defect, glimpse)) => {
                self.reject(rules, delivery, Seen::Glimpse(&glimpse), None, &defect, now, block);
            }
            Ok(event) => {
                let micros = event.time.micros();
                if rules.span.is_some_and(|(from, to)| micros < from || micros >= to) {
                    block.counts.skipped += 1;
                    return;
                }
                self.event(rules, delivery, &event, now, block);
            }
        }
    }

    fn event(
        &mut self,
        rules: &Rules,
        delivery: Received<'_>,
        event: &Event<'_>,
        now: Micros,
        block: &mut Block,
    ) {
        let described = rules.catalog.get(&event.event_type);
        let layouts = self.route(rules, &event.event_type, &event.routing_key);
        if layouts.is_empty() {
            let detail = format!("no layout of {} takes {}", rules.consumer, event.event_type);
            return self.reject(
                rules,
                delivery,
                Seen::Event(event),
                None,
                &Defect::new(Reason::NoLayout, detail),
                now,
                block,
            );
        }
        let violations = described.map(|d| check(d, event, block)).unwrap_or_default();
        if described.is_none() {
            *block.counts.unknown.entry(event.event_type.as_ref().into()).or_default() += 1;
        }
        if event.time.micros() > now.saturating_add(rules.max_future) {
            let detail = format!(
                "the event time {} is more than {} s ahead",
                time::format_micros(event.time.micros()),
                rules.max_future / 1_000_000
            );
            let defect = Defect::new(Reason::FutureTime, detail);
            for at in layouts {
                let layout = Some(self.routed[at]);
                self.reject(rules, delivery, Seen::Event(event), layout, &defect, now, block);
            }
            return;
        }
        for at in layouts {
            let index = self.routed[at];
            let layout = rules.layouts.get(index);
            let done = if layout.strict && !violations.is_empty() {
                Err(Defect::new(Reason::Invalid, violations.join("; ")))
            } else if layout.format == Format::Blob {
                blob(rules, index, delivery, event, block);
                Ok(())
            } else {
                self.row(rules, index, delivery, event, described, block)
            };
            if let Err(defect) = done {
                self.reject(rules, delivery, Seen::Event(event), Some(index), &defect, now, block);
            }
        }
    }

    /// Where in `routed` the layouts stand that an event goes to.
    fn route(&mut self, rules: &Rules, event_type: &str, routing_key: &str) -> Range<usize> {
        if let Some(known) = self.routes.get(event_type) {
            return known.clone();
        }
        if self.routes.len() >= MAX_REMEMBERED {
            self.routes.clear();
            self.routed.clear();
        }
        let takes = |i: &u16| rules.layouts.get(*i).takes(event_type);
        let mut found: Vec<u16> = match &rules.route {
            Route::Fixed(layouts) => layouts.iter().copied().filter(takes).collect(),
            Route::ByBinding(consumers) => {
                let fits = |bindings: &[String]| bindings.iter().any(|b| topic_matches(b, routing_key));
                let fitting = consumers.iter().filter(|(bindings, _)| fits(bindings));
                let mut all: Vec<u16> =
                    fitting.flat_map(|(_, layouts)| layouts.iter().copied().filter(takes)).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
        };
        let from = self.routed.len();
        self.routed.append(&mut found);
        let range = from..self.routed.len();
        self.routes.insert(event_type.to_owned(), range.clone());
        range
    }

    fn row(
        &mut self,
        rules: &Rules,
        index: u16,
        delivery: Received<'_>,
        event: &Event<'_>,
        described: Option<&EventType>,
        block: &mut Block,
    ) -> Result<(), Defect> {
        let layout = rules.layouts.get(index);
        let start = block.bytes.len();
        let row = layout.extract(event, described, rules.key, &mut self.scratch, &mut block.bytes)?;
        if is_too_long(row.partition, &block.bytes) {
            block.bytes.truncate(start);
            let detail = format!("the partition value is longer than {MAX_VALUE} bytes when percent-encoded");
            return Err(Defect::new(Reason::Invalid, detail));
        }
        let end = block.bytes.len();
        block.rows.push(head(index, delivery, event, row, (start as u32, end as u32)));
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known of what is refused")]
    fn reject(
        &mut self,
        rules: &Rules,
        delivery: Received<'_>,
        seen: Seen<'_, '_>,
        layout: Option<u16>,
        defect: &Defect,
        now: Micros,
        block: &mut Block,
    ) {
        let properties = delivery.properties;
        let kept = properties.map(Properties::kept);
        let start = block.bytes.len();
        let rejected = Rejected {
            defect,
            body: delivery.body,
            body_sha256: &hex(&Sha256::digest(delivery.body)),
            routing_key: properties.map(|p| p.routing_key.as_str()).or(seen.routing_key()),
            headers: kept.as_deref(),
            consumer: &rules.consumer,
            layout: layout.map(|l| rules.layouts.get(l).name.as_str()),
            event_id: seen.id(),
            event_type: seen.event_type(),
            tenant: seen.tenant(),
            source: &rules.source,
            position: delivery.position,
            attempt: i64::from(delivery.attempt),
            at: now,
        };
        let identity = rejected.write(rules.key, &mut self.cells, &mut block.bytes);
        let row = (start as u32, block.bytes.len() as u32);
        let look_first = match (seen, layout) {
            (Seen::Event(event), Some(layout)) => {
                let stand_in = self.stand_in(rules, layout, delivery, event, block);
                stand_in.map(|stand_in| Box::new(LookFirst { reason: defect.reason, stand_in }))
            }
            _ => None,
        };
        *block.counts.quarantined.entry(defect.reason).or_default() += 1;
        block.rows.push(RowHead {
            layout: rules.layouts.quarantine(),
            tag: delivery.tag,
            identity,
            time: now,
            day: time::day_of(now),
            // The quarantine is never fenced: an entry may repeat after a crash.
            flagged: false,
            urgent: delivery.attempt >= URGENT_ATTEMPT,
            row,
            partition: None,
            look_first,
        });
    }

    /// What stands for a refused event in its dataset; none if it cannot have landed there.
    fn stand_in(
        &mut self,
        rules: &Rules,
        index: u16,
        delivery: Received<'_>,
        event: &Event<'_>,
        block: &mut Block,
    ) -> Option<RowHead> {
        let layout = rules.layouts.get(index);
        if layout.format != Format::Parquet {
            return None;
        }
        let described = rules.catalog.get(&event.event_type);
        let start = block.bytes.len();
        let row = layout.stand_in(event, described, rules.key, &mut self.scratch, &mut block.bytes)?;
        if is_too_long(row.partition, &block.bytes) {
            block.bytes.truncate(start);
            return None;
        }
        Some(head(index, delivery, event, row, (start as u32, block.bytes.len() as u32)))
    }
}

fn blob(rules: &Rules, index: u16, delivery: Received<'_>, event: &Event<'_>, block: &mut Block) {
    let user = event.field("userId").and_then(|v| v.as_str());
    let remaining = event.data.is_none().then(|| remaining(event));
    let fields = BlobFields {
        event_type: &event.event_type,
        timestamp: event.root.get("timestamp").filter(|v| !v.is_null()).map(|v| v.raw()),
        event_time: event.time.micros(),
        tenant_id: event.tenant.as_deref(),
        user_id: user.as_deref(),
        data: event.data.map(|d| d.raw()).or(remaining.as_deref()),
        id: &event.id,
        source: event.root.get("source").map(|v| v.raw()),
    };
    let bytes = render_blob(&fields);
    let path = blob_path(&rules.audit_prefix, event.time.micros(), &event.routing_key, &event.id);
    let mut identity = IdentityHash::new(rules.key);
    identity.add(Some(path.as_bytes()));
    identity.add(Some(&bytes));
    block.blobs.push(BlobDraft {
        layout: index,
        tag: delivery.tag,
        identity: identity.finish(),
        path,
        bytes: bytes.into(),
        time: event.time.micros(),
        tenant: event.tenant.as_deref().map(str::to_owned),
    });
}

fn head(
    layout: u16,
    delivery: Received<'_>,
    event: &Event<'_>,
    extracted: Extracted,
    row: (u32, u32),
) -> RowHead {
    let at = event.time.micros();
    RowHead {
        layout,
        tag: delivery.tag,
        identity: extracted.identity,
        time: at,
        day: time::day_of(at),
        flagged: delivery.flagged,
        urgent: delivery.attempt >= URGENT_ATTEMPT,
        row,
        partition: extracted.partition,
        look_first: None,
    }
}

/// True for a partition value that no folder can be named by.
fn is_too_long(value: Option<(u32, u32)>, bytes: &[u8]) -> bool {
    let encoded = |(from, to)| encode(&String::from_utf8_lossy(&bytes[from as usize..to as usize])).len();
    value.is_some_and(|(from, to): (u32, u32)| encoded((from, to)) > MAX_VALUE)
}

/// What is known of a delivery that is refused.
#[derive(Clone, Copy)]
enum Seen<'s, 'e> {
    Event(&'s Event<'e>),
    Glimpse(&'s Glimpse),
}

impl<'s> Seen<'s, '_> {
    fn id(self) -> Option<&'s str> {
        match self {
            Seen::Event(e) => Some(&e.id),
            Seen::Glimpse(g) => g.id.as_deref(),
        }
    }

    fn event_type(self) -> Option<&'s str> {
        match self {
            Seen::Event(e) => Some(&e.event_type),
            Seen::Glimpse(g) => g.event_type.as_deref(),
        }
    }

    fn tenant(self) -> Option<&'s str> {
        match self {
            Seen::Event(e) => e.tenant.as_deref(),
            Seen::Glimpse(g) => g.tenant.as_deref(),
        }
    }

    fn routing_key(self) -> Option<&'s str> {
        match self {
            Seen::Event(e) => Some(&e.routing_key),
            Seen::Glimpse(_) => None,
        }
    }
}

fn read<'a>(
    rules: &'a Rules,
    scanner: &'a mut Scanner,
    body: &'a [u8],
    transport: Transport<'a>,
) -> Result<Event<'a>, (Defect, Glimpse)> {
    let blind = |defect| (defect, Glimpse::default());
    if body.len() > rules.max_body {
        let detail = format!("{} bytes; limits.max_body is {}", body.len(), rules.max_body);
        return Err(blind(Defect::new(Reason::TooLarge, detail)));
    }
    let document = scanner.scan(body, rules.limits).map_err(blind)?;
    let time_field = |event_type: &str| rules.catalog.get(event_type).and_then(EventType::time_field);
    let root = document.root();
    Event::decode(body, root, transport, time_field).map_err(|defect| (defect, Glimpse::of(root, transport)))
}

/// Counts the violations of the catalog and returns them as texts.
fn check(described: &EventType, event: &Event<'_>, block: &mut Block) -> Vec<String> {
    const SHOWN: usize = 8;
    let mut texts = Vec::new();
    validate::validate(described, event.root, &mut |violation| {
        let key = (described.id.as_str().into(), violation.label());
        *block.counts.violations.entry(key).or_default() += 1;
        if texts.len() < SHOWN {
            texts.push(violation.to_string());
        }
    });
    texts
}

/// The payload of a flat event as a JSON object, its members as received.
fn remaining(event: &Event<'_>) -> Cow<'static, str> {
    let mut out = String::from("{");
    for value in event.payload_members() {
        if out.len() > 1 {
            out.push(',');
        }
        out.push('"');
        out.push_str(value.raw_key());
        out.push_str("\":");
        out.push_str(value.raw());
    }
    out.push('}');
    Cow::Owned(out)
}
