//! Closing batches: by rows and bytes, by age, for want of memory, and when nothing more can come.

use std::time::Duration;

use super::{State, send};
use crate::batch::encode::Rolled;
use crate::batch::rows::MAX_BYTES;
use crate::clock::{Micros, micros};
use crate::layout::partition::Partition;
use crate::pipeline::land::Landing;
use crate::pipeline::lanes::{LaneId, Open};
use crate::pipeline::{Close, Command, Limits};

/// The parts of the budget that must come in before a batch without new rows is closed, and between two looks.
const QUIET: (u64, u64) = (8, 32);

/// Share of the budget from which on the largest batch is sealed, and that landings may hold meanwhile.
const PRESSURE: (usize, usize) = (3, 4);

/// Redelivered rows wait no longer than this for others: their delivery count is running. Those of a backfill have none.
const REDELIVERED_AGE: Duration = Duration::from_secs(1);

/// A third of what may be unacknowledged, come within this time, is a backlog, and closed at once: so one third lands, one
/// fills, and one is on its way. What comes slower loses nothing by waiting for the whole, and makes files three times as
/// large.
const RUSH: Duration = Duration::from_secs(10);

/// How small rows become when they are encoded, before it was seen: small ones repeat each other's keys and values, large
/// ones may be anything.
const FIRST_RATIO: (f64, f64) = (0.35, 1.0);

/// Mean bytes of large rows.
const LARGE: usize = 16 << 10;

/// How often encoding holds what it encodes: in pages, and in a buffer that doubles.
const COPIES: f64 = 3.0;

/// What the copies may take beside a quarter of the budget: a quarter of what the process may take beside all of it.
const BESIDE: usize = 24 << 20;

impl State {
    /// Why an open batch must be closed now, if it must.
    pub(super) fn full(&self, id: LaneId, flagged: bool) -> Option<Rolled> {
        let (partition, lane) = self.lanes.get(id);
        let open = if flagged { lane.flagged.as_ref() } else { lane.fresh.as_ref() }?;
        let limits = self.limits(partition.layout);
        let encoded = self.encoded(partition.layout, open);
        if open.urgent && lane.is_free() {
            Some(Rolled::DeliveryLimit)
        } else if open.len() as u64 >= limits.rows {
            Some(Rolled::Rows)
        } else if encoded >= limits.bytes as f64 || open.bytes() >= MAX_BYTES / 2 {
            Some(Rolled::Bytes)
        } else if encoded * COPIES >= (self.budget.limit() / PRESSURE.1 + BESIDE) as f64 {
            Some(Rolled::Memory)
        } else {
            None
        }
    }

    /// Bytes that a batch will take when it is encoded, as far as can be told.
    fn encoded(&self, layout: u16, open: &Open) -> f64 {
        let first = if open.bytes() / open.len().max(1) < LARGE { FIRST_RATIO.0 } else { FIRST_RATIO.1 };
        open.bytes() as f64 * self.ratios[usize::from(layout)].unwrap_or(first)
    }

    pub(super) fn limits(&self, layout: u16) -> &Limits {
        &self.settings.limits[usize::from(layout)]
    }

    pub(super) fn seal(&mut self, id: LaneId, flagged: bool, rolled: Rolled) {
        self.batches += 1;
        let batch = format!("{}-{}", self.writer, self.batches);
        let partition = self.lanes.get(id).0.clone();
        let lane = self.lanes.lane(id);
        let open = if flagged { lane.flagged.take() } else { lane.fresh.take() };
        let Some(open) = open else { return };
        self.landing_bytes += open.held();
        let expected = self.encoded(partition.layout, &open) as usize;
        let landing = open.seal(partition, rolled, batch, flagged, expected);
        self.lanes.lane(id).queue.push_back(landing);
        self.next(id);
    }

    /// Lets the next batch of a lane land, if none does. Urgent rows that came while another landed are sealed together:
    /// each batch of them costs a look.
    pub(super) fn next(&mut self, id: LaneId) {
        let lane = self.lanes.lane(id);
        if lane.busy {
            return;
        }
        if lane.is_free()
            && let Some(flagged) = lane.urgent()
        {
            return self.seal(id, flagged, Rolled::DeliveryLimit);
        }
        if let Some(mut landing) = lane.queue.pop_front() {
            lane.busy = true;
            landing.seq = lane.seq;
            *self.in_flight.entry(landing.partition.layout).or_default() += 1;
            self.ready.push(landing);
        }
    }

    /// Landings that may begin now.
    pub fn take_ready(&mut self) -> Vec<Landing> {
        std::mem::take(&mut self.ready)
    }

    /// Seals what is old enough, what nothing more can come to, and what memory cannot hold.
    pub fn tick(&mut self, now: Micros) {
        self.patience = self.patience.saturating_add(1);
        let old: Vec<(LaneId, bool, Rolled)> = self
            .lanes
            .iter()
            .flat_map(|(id, p, lane)| {
                let age = self.limits(p.layout).age;
                let fresh = lane.fresh.as_ref().filter(|o| now - o.since >= micros(age));
                let soon = if self.settings.redelivers { age.min(REDELIVERED_AGE) } else { age };
                let soon = micros(soon);
                let flagged = lane.flagged.as_ref().filter(|o| now - o.since >= soon);
                let fresh = fresh.map(|_| (id, false, Rolled::Age));
                fresh.into_iter().chain(flagged.map(|_| (id, true, Rolled::Redelivered)))
            })
            .collect();
        for (id, flagged, rolled) in old {
            self.seal(id, flagged, rolled);
        }
        self.hold(now);
        self.lanes.sweep();
    }

    /// Closes the batches of a backfill that got nothing while much else came: its input is mostly in order, and what
    /// stays open costs memory.
    pub(super) fn seal_quiet(&mut self) {
        let (now, before) = self.taken_in;
        let limit = self.budget.limit() as u64;
        if self.settings.redelivers || now - before < limit / QUIET.1 {
            return;
        }
        self.taken_in.1 = now;
        let quiet: Vec<(LaneId, bool)> = self
            .lanes
            .iter()
            .flat_map(|(id, _, lane)| {
                let quiet =
                    |open: &Option<Open>| open.as_ref().is_some_and(|o| now - o.last_at >= limit / QUIET.0);
                let fresh = quiet(&lane.fresh).then_some((id, false));
                fresh.into_iter().chain(quiet(&lane.flagged).then_some((id, true)))
            })
            .collect();
        for (id, flagged) in quiet {
            self.seal(id, flagged, if flagged { Rolled::Redelivered } else { Rolled::Quiet });
        }
    }

    /// Closes the batches of a consumer when every prefetched delivery sits in one, for nothing more can come; or a third
    /// of them, if they came in a rush and nothing of it is landing.
    pub fn seal_starved(&mut self, now: Micros) {
        for (index, consumer) in self.settings.clone().consumers.iter().enumerate() {
            let channels = || self.channels.values().filter(|c| c.consumer == index && !c.ended);
            let (unspent, may) = channels().fold((0, 0), |(unspent, may), c| {
                (unspent + c.ledger.unspent(), c.prefetch.saturating_add(may))
            });
            let oldest = channels().filter_map(|c| c.ledger.oldest()).min();
            let rush = oldest.is_some_and(|since| now - since < micros(RUSH));
            let starved = rush && unspent.saturating_mul(3) >= may
                || channels().all(|c| c.ledger.unspent() >= c.prefetch);
            let busy = |l: &u16| self.in_flight.get(l).is_some_and(|n| *n > 0);
            if unspent > 0
                && starved
                && !consumer.layouts.iter().any(busy)
                && !busy(&self.layouts.quarantine())
            {
                let layouts: Vec<u16> =
                    consumer.layouts.iter().copied().chain([self.layouts.quarantine()]).collect();
                self.seal_where(Rolled::Prefetch, |p| layouts.contains(&p.layout));
            }
        }
    }

    /// Closes every open batch.
    pub fn seal_all(&mut self, rolled: Rolled) {
        self.seal_where(rolled, |_| true);
    }

    fn seal_where(&mut self, rolled: Rolled, wanted: impl Fn(&Partition) -> bool) {
        let open = self.lanes.iter().filter(|(_, p, _)| wanted(p));
        let open: Vec<(LaneId, bool)> = open
            .flat_map(|(id, _, lane)| {
                let fresh = lane.fresh.is_some().then_some((id, false));
                fresh.into_iter().chain(lane.flagged.is_some().then_some((id, true)))
            })
            .collect();
        for (id, flagged) in open {
            self.seal(id, flagged, if flagged { Rolled::Redelivered } else { rolled });
        }
    }

    /// Under pressure, seals the largest open batch, as long as not too much is landing already.
    pub fn relieve(&mut self) {
        let limit = self.budget.limit();
        while self.budget.used() > limit / PRESSURE.1 * PRESSURE.0 && self.landing_bytes < limit / PRESSURE.1
        {
            let open = self.lanes.iter().flat_map(|(id, _, lane)| {
                let fresh = lane.fresh.as_ref().map(|o| (o.held(), id, false));
                fresh.into_iter().chain(lane.flagged.as_ref().map(|o| (o.held(), id, true)))
            });
            let Some((_, id, flagged)) = open.max() else { return };
            self.seal(id, flagged, if flagged { Rolled::Redelivered } else { Rolled::Memory });
        }
    }

    /// Gives up the channels when a receipt has been kept for too long (rule 8): all of them, because what a channel has
    /// received and not passed on has no receipt yet, and may be as old.
    fn hold(&mut self, now: Micros) {
        let hold = micros(self.settings.hold);
        let mut oldest = self.channels.values().filter(|c| !c.closing).filter_map(|c| c.ledger.oldest());
        if !oldest.any(|since| now - since > hold) {
            return;
        }
        self.held = true;
        for c in self.channels.values_mut().filter(|c| !c.closing) {
            tracing::warn!(
                consumer = %self.settings.consumers[c.consumer].name,
                unacked = c.ledger.unspent(),
                "receipts are older than limits.hold: giving them back"
            );
            c.closing = true;
            send(c, Command::Close(Close::Hold));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::catalog::Catalog;
    use crate::layout::Layouts;
    use crate::pipeline::budget::Budget;
    use crate::pipeline::delivery::{Block, Counts, RowHead};
    use crate::pipeline::{ConsumerSettings, Opened, Settings};

    const SECOND: Micros = 1_000_000;
    const LAYOUT: &str = "risk_evaluations";

    /// A consumer of two channels that may hold ten deliveries each.
    fn two_channels() -> (State, Vec<tokio::sync::mpsc::Receiver<Command>>) {
        let layouts = Arc::new(Layouts::load(&Catalog::builtin(), None, &[]).expect("built in"));
        let limits = Limits { rows: 1_000, bytes: 1 << 20, age: Duration::from_secs(900) };
        let consumer = ConsumerSettings {
            name: "data_lake".into(),
            layouts: vec![layouts.index(LAYOUT).expect("built in")],
            always_look: false,
        };
        let settings = Settings {
            writer_name: "w".into(),
            host: "h".into(),
            consumers: vec![consumer],
            limits: layouts.all().iter().map(|_| limits).collect(),
            hold: Duration::from_secs(1_200),
            puts: 1,
            blobs: 1,
            redelivers: true,
            without: None,
        };
        let budget = Budget::new(64 << 20);
        let mut state = State::new(layouts, settings.into(), budget, "w".into(), Arc::default());
        let mut heard = Vec::new();
        for channel in 1..=2 {
            let (commands, hears) = tokio::sync::mpsc::channel(16);
            state.opened(Opened { channel, consumer: 0, prefetch: 10, commands });
            heard.push(hears);
        }
        (state, heard)
    }

    /// Delivery `tag` through `channel`, a row of day `day`.
    fn deliver(state: &mut State, channel: u32, tag: u64, day: i32, at: Micros) {
        let row = RowHead {
            layout: state.layouts.index(LAYOUT).expect("built in"),
            tag,
            identity: u128::from(channel) << 64 | u128::from(tag),
            time: at,
            day,
            flagged: false,
            urgent: false,
            row: (0, 3),
            partition: None,
            look_first: None,
        };
        state.absorb(Block {
            channel,
            received_at: at,
            bytes: b"row".to_vec(),
            rows: vec![row],
            blobs: Vec::new(),
            tags: vec![(tag, 1)],
            counts: Counts::default(),
            charge: state.budget.charge_undecoded(0),
        });
        state.seal_starved(at);
    }

    fn closed(state: &mut State) -> Vec<(i32, usize, Rolled)> {
        state.take_ready().iter().map(|l| (l.partition.day, l.rows.len(), l.rolled)).collect()
    }

    #[test]
    fn a_third_of_a_window_is_closed_in_a_rush_and_the_next_once_it_has_landed() {
        let (mut state, _heard) = two_channels();
        // Unevenly: what counts is what the consumer may hold.
        for tag in 1..=6 {
            deliver(&mut state, 1, tag, (tag % 2) as i32, 0);
        }
        assert_eq!(closed(&mut state), []);
        deliver(&mut state, 2, 1, 0, SECOND);
        assert_eq!(closed(&mut state), [(1, 3, Rolled::Prefetch), (0, 4, Rolled::Prefetch)]);
        for tag in 2..=10 {
            deliver(&mut state, 2, tag, 0, SECOND);
        }
        assert_eq!(closed(&mut state), [], "the first third is landing");
    }

    #[test]
    fn what_comes_slowly_fills_the_window() {
        let (mut state, _heard) = two_channels();
        let mut at = 0;
        for tag in 1..=10 {
            for channel in 1..=2 {
                assert_eq!(closed(&mut state), [], "after {at} us");
                at += 2 * SECOND;
                deliver(&mut state, channel, tag, 0, at);
            }
        }
        assert_eq!(closed(&mut state), [(0, 20, Rolled::Prefetch)]);
    }
}
