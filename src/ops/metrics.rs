//! Metrics: their names, units and meaning, and how they are rendered for Prometheus.
//!
//! Owns the names `lakehead_<area>_<thing>_<unit>` and the bound on labels that come from data. Does not own counting:
//! whoever does a thing counts it, through the `metrics` facade, which does nothing until [`Metrics::install`].

use std::collections::HashSet;

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, Result};

/// Deliveries received. Labels: `consumer`, `flag` ([`FRESH`] or [`FLAGGED`]).
pub const DELIVERIES: &str = "lakehead_source_deliveries_total";
/// Events whose type is not in the catalog. Label: `event_type` (bounded by [`Labels`]).
pub const UNKNOWN_TYPES: &str = "lakehead_event_unknown_type_total";
/// Violations of the catalog by events that landed. Labels: `event_type`, `path` (bounded by [`Labels`]).
pub const VIOLATIONS: &str = "lakehead_event_violations_total";
/// Rows landed. Label: `dataset`.
pub const ROWS: &str = "lakehead_dataset_rows_total";
/// Files landed. Labels: `dataset`, `reason` (why the file was closed).
pub const FILES: &str = "lakehead_dataset_files_total";
/// Bytes landed, encoded. Label: `dataset`.
pub const BYTES: &str = "lakehead_dataset_landed_bytes_total";
/// Events that were there already and did not land again. Label: `dataset`.
pub const REPEATS: &str = "lakehead_dataset_repeats_total";
/// Events quarantined. Labels: `reason`, `dataset`.
pub const QUARANTINED: &str = "lakehead_quarantine_events_total";
/// Puts that ended. Label: `outcome` (`created`, `exists`, `failed`).
pub const PUTS: &str = "lakehead_store_puts_total";
/// Seconds that a put took, whatever its outcome.
pub const PUT_SECONDS: &str = "lakehead_store_put_duration_seconds";
/// Fences created at other writers' names. Label: `dataset`.
pub const FENCES_CREATED: &str = "lakehead_fence_created_total";
/// Fences met at our own names. Label: `dataset`.
pub const FENCES_MET: &str = "lakehead_fence_met_total";
/// Audit blobs that found other bytes under their name.
pub const BLOB_CONFLICTS: &str = "lakehead_archive_conflicts_total";
/// Age of the oldest delivery that is not acknowledged. Label: `consumer`.
pub const OLDEST_UNACKED: &str = "lakehead_source_oldest_unacked_age_seconds";
/// Channels that consume. Label: `consumer`.
pub const CHANNELS: &str = "lakehead_source_channels_open_count";
/// Connections that were made again. Label: `consumer`.
pub const RECONNECTS: &str = "lakehead_source_reconnects_total";
/// Bytes of the budget that are taken.
pub const BUDGET_USED: &str = "lakehead_budget_used_bytes";
/// Bytes of the budget: `limits.memory`.
pub const BUDGET_LIMIT: &str = "lakehead_budget_limit_bytes";
/// Batches that are open. Label: `dataset`.
pub const OPEN_BATCHES: &str = "lakehead_batch_open_count";
/// Always 1. Label: `version`.
pub const BUILD: &str = "lakehead_process_build_info";

/// Value of `flag` of a delivery that the broker hands over for the first time.
pub const FRESH: &str = "fresh";
/// Value of `flag` of a delivery that the broker flags as redelivered.
pub const FLAGGED: &str = "flagged";
/// Stands for every label value above the bound.
pub const OTHER: &str = "other";

/// Distinct values that a label from data may have.
const LABEL_VALUES: usize = 1_000;

/// Upper bounds of the put-duration histogram, in seconds.
const PUT_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const ALL: [(&str, Kind, Unit, &str); 20] = [
    (DELIVERIES, Kind::Counter, Unit::Count, "Deliveries received, by consumer and flag."),
    (UNKNOWN_TYPES, Kind::Counter, Unit::Count, "Events whose type is not in the catalog."),
    (VIOLATIONS, Kind::Counter, Unit::Count, "Violations of the catalog by events that landed."),
    (ROWS, Kind::Counter, Unit::Count, "Rows landed."),
    (FILES, Kind::Counter, Unit::Count, "Files landed, by why they were closed."),
    (BYTES, Kind::Counter, Unit::Bytes, "Bytes landed, encoded."),
    (REPEATS, Kind::Counter, Unit::Count, "Events that were there already and did not land again."),
    (QUARANTINED, Kind::Counter, Unit::Count, "Events quarantined, by reason."),
    (PUTS, Kind::Counter, Unit::Count, "Puts that ended, by outcome."),
    (PUT_SECONDS, Kind::Histogram, Unit::Seconds, "Time that a put took."),
    (FENCES_CREATED, Kind::Counter, Unit::Count, "Fences created at other writers' names."),
    (FENCES_MET, Kind::Counter, Unit::Count, "Fences met at our own names."),
    (BLOB_CONFLICTS, Kind::Counter, Unit::Count, "Audit blobs that found other bytes under their name."),
    (OLDEST_UNACKED, Kind::Gauge, Unit::Seconds, "Age of the oldest delivery that is not acknowledged."),
    (CHANNELS, Kind::Gauge, Unit::Count, "Channels that consume."),
    (RECONNECTS, Kind::Counter, Unit::Count, "Connections that were made again."),
    (BUDGET_USED, Kind::Gauge, Unit::Bytes, "Bytes of the memory budget that are taken."),
    (BUDGET_LIMIT, Kind::Gauge, Unit::Bytes, "Bytes of the memory budget."),
    (OPEN_BATCHES, Kind::Gauge, Unit::Count, "Batches that are open."),
    (BUILD, Kind::Gauge, Unit::Count, "Always 1; the version is a label."),
];

/// The process's metrics, to be rendered.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Takes over the `metrics` facade of this process. Whoever calls it must see to [`Metrics::upkeep`], as the HTTP
    /// server does; without a server, leave it.
    ///
    /// # Errors
    /// If somebody has done so already.
    pub fn install() -> Result<Metrics> {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(PUT_SECONDS.into()), &PUT_BUCKETS)
            .map_err(|e| Error::bug("the bounds of a histogram").source(e))?;
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder)
            .map_err(|_| Error::bug("metrics are installed twice in one process"))?;
        describe();
        metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Metrics { handle })
    }

    /// Metrics that nobody counts into, for a server in a test.
    pub fn detached() -> Metrics {
        Metrics { handle: PrometheusBuilder::new().build_recorder().handle() }
    }

    /// The metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds samples together, so that histograms take bounded memory; every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn describe() {
    for (name, kind, unit, text) in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, unit, text),
            Kind::Gauge => metrics::describe_gauge!(name, unit, text),
            Kind::Histogram => metrics::describe_histogram!(name, unit, text),
        }
    }
}

/// Keeps a label from data to 1,000 distinct values; further ones become [`OTHER`].
#[derive(Debug, Default)]
pub struct Labels {
    seen: HashSet<Box<str>>,
}

impl Labels {
    /// The value itself while there is room for it or it was seen, else [`OTHER`].
    pub fn bounded<'v>(&mut self, value: &'v str) -> &'v str {
        if self.seen.contains(value) {
            return value;
        }
        if self.seen.len() >= LABEL_VALUES {
            return OTHER;
        }
        self.seen.insert(value.into());
        value
    }

    /// Two labels that are bounded together, as one pair.
    pub fn bounded_pair<'v>(&mut self, one: &'v str, other: &'v str) -> (&'v str, &'v str) {
        let pair = format!("{one}\u{0}{other}");
        if self.bounded(&pair) == OTHER { (OTHER, OTHER) } else { (one, other) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let mut labels = Labels::default();
        for i in 0..LABEL_VALUES {
            let value = format!("type.{i}");
            assert_eq!(labels.bounded(&value), value);
        }
        assert_eq!(labels.bounded("one.more"), OTHER);
        assert_eq!(labels.bounded("type.7"), "type.7");
        assert_eq!(labels.bounded_pair("a", "b"), (OTHER, OTHER));
    }

    #[test]
    fn names_follow_the_scheme() {
        for (name, kind, unit, _) in &ALL {
            assert!(name.starts_with("lakehead_") && name.split('_').count() >= 4, "{name}");
            assert_eq!(name.ends_with("_total"), matches!(kind, Kind::Counter), "{name}");
            let shown = name.trim_end_matches("_total");
            assert!(*unit != Unit::Seconds || shown.ends_with("_seconds"), "{name}");
            assert!(*unit != Unit::Bytes || shown.ends_with("_bytes"), "{name}");
        }
    }
}
