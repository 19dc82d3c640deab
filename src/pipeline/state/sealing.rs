//! Closing batches: by rows and bytes, by age, for want of memory, and when nothing more can come.

use std::time::Duration;

use super::{State, send};
use crate::batch::encode::Rolled;
use crate::batch::rows::MAX_BYTES;
use crate::clock::{Micros, micros};
use crate::layout::partition::Partition;
use crate::layout::{Format, Roll};
use crate::pipeline::land::Landing;
use crate::pipeline::lanes::{LaneId, Open};
use crate::pipeline::{Close, Command, Limits, Rule};

/// The part of the budget that must come in before a batch without new rows is closed; the same for one that holds as much
/// itself, so that waiting costs more than another file; and between two looks.
const QUIET: (u64, u64, u64) = (8, 16, 64);

/// Share of the budget from which on the largest batch is sealed, and that landings may hold meanwhile.
const PRESSURE: (usize, usize) = (3, 4);

/// Redelivered rows wait no longer than this for others: their delivery count is running. Those of a backfill have none.
const REDELIVERED_AGE: Duration = Duration::from_secs(1);

/// A third of what may be unacknowledged, come within this time, is a backlog, and closed at once: so one third lands, one
/// fills, and one is on its way. What comes slower loses nothing by waiting for the whole, and makes files three times as
/// large.
const RUSH: Duration = Duration::from_secs(10);

/// Deliveries that a third must have: files of fewer rows cost more than they speed up.
const RUSHED: usize = 1_000;

/// How small rows become when they are encoded, before it was seen: small ones repeat each other's keys and values, large
/// ones may be anything.
const FIRST_RATIO: (f64, f64) = (0.35, 1.0);

/// Mean bytes of large rows.
const LARGE: usize = 16 << 10;

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
        } else if encoded >= Roll::most_bytes(self.budget.limit() as u64) as f64 {
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
            if self.settings.without == Some(Rule::Stored) {
                self.stored(landing.partition.layout, &landing.rows);
            }
            self.ready.push(landing);
        }
    }

    /// Landings that may begin now.
    pub fn take_ready(&mut self) -> Vec<Landing> {
        std::mem::take(&mut self.ready)
    }

    /// Seals what is old enough, gives up channels that were held for too long, and forgets idle lanes.
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
        if self.settings.redelivers || now - before < limit / QUIET.2 {
            return;
        }
        self.taken_in.1 = now;
        let quiet: Vec<(LaneId, bool)> = self
            .lanes
            .iter()
            .flat_map(|(id, _, lane)| {
                let wait = |o: &Open| {
                    let large = o.held() as u64 >= limit / QUIET.1;
                    limit / if large { QUIET.1 } else { QUIET.0 }
                };
                let quiet = |open: &Option<Open>| open.as_ref().is_some_and(|o| now - o.last_at >= wait(o));
                let fresh = quiet(&lane.fresh).then_some((id, false));
                fresh.into_iter().chain(quiet(&lane.flagged).then_some((id, true)))
            })
            .collect();
        for (id, flagged) in quiet {
            self.seal(id, flagged, if flagged { Rolled::Redelivered } else { Rolled::Quiet });
        }
    }

    /// Closes the batches of a consumer when every prefetched delivery sits in one, for nothing more can come; or a third
    /// of them, if it came in a rush. Not while something of it is landing: that will let more come.
    pub fn seal_starved(&mut self, now: Micros) {
        // All of them are asked before any is sealed: of two that share a layout, none must always find it busy.
        let mut starved: Vec<u16> = Vec::new();
        for index in 0..self.settings.consumers.len() {
            if self.is_starved(index, now) {
                let layouts = self.settings.consumers[index].layouts.iter().copied();
                let files = layouts.filter(|l| self.layouts.get(*l).format == Format::Parquet);
                let all = files.chain([self.layouts.quarantine()]);
                let lands = |l: u16| self.in_flight.get(&l).is_some_and(|n| *n > 0);
                if !all.clone().any(lands) {
                    starved.extend(all);
                }
            }
        }
        if !starved.is_empty() {
            self.seal_where(Rolled::Prefetch, |p| starved.contains(&p.layout));
        }
    }

    /// Whether a consumer waits for what is open; notes on the way whether its third came in a rush.
    fn is_starved(&mut self, consumer: usize, now: Micros) -> bool {
        let channels = || self.channels.values().filter(|c| c.consumer == consumer && !c.ended);
        let (unspent, may) = channels()
            .fold((0, 0), |(unspent, may), c| (unspent + c.ledger.unspent(), c.prefetch.saturating_add(may)));
        let whole = channels().all(|c| c.ledger.unspent() >= c.prefetch);
        let third = unspent >= RUSHED && unspent.saturating_mul(3) >= may;
        // Told when the third has come: what lands slowly does not make what came fast look slow.
        let oldest = channels().filter_map(|c| c.ledger.oldest()).min();
        let fresh = oldest.is_some_and(|since| now - since < micros(RUSH));
        let rush = &mut self.rushes[consumer];
        *rush = third && (*rush || fresh);
        unspent > 0 && (whole || *rush)
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
        if self.settings.without == Some(Rule::Budget) {
            return;
        }
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
        for lane in self.lanes.iter_mut() {
            lane.held = !lane.is_free();
        }
        self.held_blobs = self.blobs_are_under_way();
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
    use std::ops::RangeInclusive;
    use std::sync::Arc;

    use super::*;
    use crate::batch::rows::Rows;
    use crate::event::catalog::Catalog;
    use crate::layout::Layouts;
    use crate::pipeline::budget::Budget;
    use crate::pipeline::delivery::{Block, Counts, RowHead};
    use crate::pipeline::land::{End, Landed};
    use crate::pipeline::{ConsumerSettings, Opened, Settings};

    const SECOND: Micros = 1_000_000;
    const LAYOUT: &str = "risk_evaluations";

    /// A consumer of two channels that may hold so many deliveries each.
    fn two_channels(prefetch: usize) -> (State, Vec<tokio::sync::mpsc::Receiver<Command>>) {
        let layouts = Arc::new(Layouts::load(&Catalog::builtin(), None, &[]).expect("built in"));
        let limits = Limits { rows: 10_000, bytes: 1 << 20, age: Duration::from_secs(900) };
        let consumer = |name: &str| ConsumerSettings {
            name: name.into(),
            layouts: vec![layouts.index(LAYOUT).expect("built in")],
            always_look: false,
        };
        let settings = Settings {
            writer_name: "w".into(),
            host: "h".into(),
            // The second one shares the layout.
            consumers: vec![consumer("data_lake"), consumer("other")],
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
            heard.push(open(&mut state, channel, 0, prefetch));
        }
        (state, heard)
    }

    fn open(
        state: &mut State,
        channel: u32,
        consumer: usize,
        prefetch: usize,
    ) -> tokio::sync::mpsc::Receiver<Command> {
        let (commands, hears) = tokio::sync::mpsc::channel(16);
        state.opened(Opened { channel, consumer, prefetch, commands });
        hears
    }

    /// Deliveries `tags` through `channel`, rows of day `day`.
    fn deliver(state: &mut State, channel: u32, tags: RangeInclusive<u64>, day: i32, at: Micros) {
        let rows = tags.clone().map(|tag| RowHead {
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
        });
        let block = Block {
            channel,
            received_at: at,
            bytes: b"row".to_vec(),
            rows: rows.collect(),
            blobs: Vec::new(),
            tags: tags.map(|tag| (tag, 1)).collect(),
            counts: Counts::default(),
            charge: state.budget.charge_undecoded(0),
        };
        state.absorb(block);
        state.seal_starved(at);
    }

    fn closed(state: &mut State) -> Vec<(i32, usize, Rolled)> {
        state.take_ready().iter().map(|l| (l.partition.day, l.rows.len(), l.rolled)).collect()
    }

    /// Lands what was closed, and gives its rows.
    fn land(state: &mut State, at: Micros) -> usize {
        let mut rows = 0;
        for landing in state.take_ready() {
            rows += landing.rows.len();
            let (present, end) = (Rows::default(), End::Stored(Some(100)));
            state.landed(Landed { landing, present, passed: Vec::new(), end }).expect("landed");
        }
        state.tell();
        state.seal_starved(at);
        rows
    }

    #[test]
    fn a_third_of_a_window_is_closed_in_a_rush() {
        let (mut state, _heard) = two_channels(2_000);
        // Unevenly: what counts is what the consumer may hold.
        deliver(&mut state, 1, 1..=700, 1, 0);
        deliver(&mut state, 1, 701..=1_333, 2, 0);
        assert_eq!(closed(&mut state), []);
        deliver(&mut state, 2, 1..=1, 2, SECOND);
        assert_eq!(closed(&mut state), [(1, 700, Rolled::Prefetch), (2, 634, Rolled::Prefetch)]);
    }

    #[test]
    fn the_next_third_is_closed_once_the_first_has_landed_however_long_that_takes() {
        let (mut state, _heard) = two_channels(2_000);
        deliver(&mut state, 1, 1..=1_400, 0, 0);
        deliver(&mut state, 1, 1_401..=2_000, 0, SECOND);
        deliver(&mut state, 2, 1..=900, 0, SECOND);
        assert_eq!(land(&mut state, 60 * SECOND), 1_400, "the others wait for it");
        assert_eq!(land(&mut state, 61 * SECOND), 1_500);
        deliver(&mut state, 2, 901..=1_500, 0, 62 * SECOND);
        assert_eq!(closed(&mut state), [], "less than a third");
    }

    #[test]
    fn who_shares_a_layout_with_a_flood_is_not_starved() {
        let (mut state, mut heard) = two_channels(2_000);
        heard.push(open(&mut state, 3, 1, 10));
        let mut tag = 0;
        for second in 0..20 {
            // While a third of the one lands, the next fills.
            deliver(&mut state, 1, tag + 1..=tag + 1_400, 0, second * SECOND);
            tag += 1_400;
            if second == 3 {
                deliver(&mut state, 3, 1..=10, 7, second * SECOND);
            }
            land(&mut state, second * SECOND);
        }
        assert_eq!(state.unspent(3), 0);
    }

    #[test]
    fn who_gave_receipts_back_waits_for_what_was_on_its_way() {
        let (mut state, _heard) = two_channels(2_000);
        deliver(&mut state, 1, 1..=1_400, 1, 0);
        let under_way = state.take_ready();
        assert_eq!(state.stuck(), [false, false]);
        state.tick(2_000 * SECOND);
        assert!(state.held);
        // They share the layout.
        assert_eq!(state.stuck(), [true, true]);
        // The store takes another day; the first one is still on its way.
        deliver(&mut state, 1, 1_401..=1_500, 2, 2_000 * SECOND);
        state.seal_all(Rolled::Age);
        assert_eq!(land(&mut state, 2_000 * SECOND), 100);
        assert_eq!(state.stuck(), [true, true]);
        for landing in under_way {
            let (present, end) = (Rows::default(), End::Stored(Some(100)));
            state.landed(Landed { landing, present, passed: Vec::new(), end }).expect("landed");
        }
        assert_eq!(state.stuck(), [false, false]);
    }

    #[test]
    fn what_comes_slowly_fills_the_window() {
        let (mut state, _heard) = two_channels(2_000);
        for n in 1..=4 {
            assert_eq!(closed(&mut state), [], "at {n}");
            let tags = 500 * (n - 1) + 1..=500 * n;
            deliver(&mut state, 1, tags.clone(), 0, n as Micros * 20 * SECOND);
            deliver(&mut state, 2, tags, 0, n as Micros * 20 * SECOND);
        }
        assert_eq!(closed(&mut state), [(0, 4_000, Rolled::Prefetch)]);
    }

    #[test]
    fn small_windows_are_closed_as_a_whole() {
        let (mut state, _heard) = two_channels(300);
        deliver(&mut state, 1, 1..=300, 0, 0);
        deliver(&mut state, 2, 1..=299, 0, 0);
        assert_eq!(closed(&mut state), []);
        deliver(&mut state, 2, 300..=300, 0, 0);
        assert_eq!(closed(&mut state), [(0, 600, Rolled::Prefetch)]);
    }
}
