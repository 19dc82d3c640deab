//! Events to measure with: the same on every machine and in every run.
// Each bench compiles this module and uses its own part of it.
#![allow(dead_code)]

use bytes::Bytes;
use lakehead::batch::rows::Rows;
use lakehead::command::setup::Setup;
use lakehead::config::Config;
use lakehead::event::sample::Sampler;
use lakehead::layout::row::IdentityKey;
use lakehead::pipeline::decode::{Decoder, Route};
use lakehead::pipeline::delivery::{Block, Bundle, Delivery};
use lakehead::pipeline::{Budget, delivery::Properties};

/// 2026-02-01T00:00:00Z, in microseconds since the epoch.
pub const NOW: i64 = 1_769_904_000_000_000;
const DAY: i64 = 86_400_000_000;
const KEY: IdentityKey = IdentityKey(1, 2);

/// The built-in configuration, with a lake in memory.
pub fn setup() -> Setup {
    let lake = [("LAKEHEAD_DATA_LAKE__URL".to_owned(), "memory://".to_owned())];
    let config = Config::load(None, lake.into_iter()).expect("the built-in configuration is right");
    Setup::new(config).expect("the built-in layouts are right")
}

/// A stream of numbers that follows from its seed.
#[derive(Debug)]
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    /// SplitMix64: the next number.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn uuid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            a >> 32,
            a >> 16 & 0xFFFF,
            a & 0xFFF,
            b >> 52,
            b & 0xFFFF_FFFF_FFFF
        )
    }

    fn score(&mut self) -> f64 {
        self.below(10_000) as f64 / 10_000.0
    }
}

/// Risk evaluations of `days` days up to [`NOW`], in order of time, as `scripts/generate-risk-events` makes them.
pub fn risk_events(count: usize, days: i64) -> Vec<Bytes> {
    let mut draw = Draw::new(7);
    let tenants: Vec<String> = (0..200).map(|_| draw.uuid()).collect();
    let opportunities: Vec<String> = (0..50_000).map(|_| draw.uuid()).collect();
    (0..count)
        .map(|n| {
            let time = NOW - days * DAY + n as i64 * (days * DAY / count as i64);
            let mut data = format!(
                r#""opportunityId":"{}","riskScore":{},"categoryScores":{{"#,
                opportunities[draw.below(50_000) as usize],
                draw.score()
            );
            let names = ["commercial", "technical", "financial", "legal", "competitive", "operational"];
            let scores: Vec<String> = names.iter().map(|n| format!(r#""{n}":{}"#, draw.score())).collect();
            data.push_str(&scores.join(","));
            data.push('}');
            if draw.below(10) < 8 {
                let driver = |name: &str, draw: &mut Draw| {
                    format!(r#"{{"driver":"{name}","weight":{}}}"#, draw.below(1000) as f64 / 1000.0)
                };
                let (a, b) = (driver("stalled_stage", &mut draw), driver("budget_unclear", &mut draw));
                data.push_str(&format!(r#","topDrivers":[{a},{b},{}]"#, driver("exec_change", &mut draw)));
            }
            if draw.below(10) < 6 {
                let (complete, stale) = (draw.score(), draw.below(90));
                data.push_str(&format!(r#","dataQuality":{{"completeness":{complete},"staleDays":{stale}}}"#));
            }
            if draw.below(10) < 9 {
                data.push_str(&format!(r#","evaluationId":"{}""#, draw.uuid()));
            }
            let (id, tenant) = (draw.uuid(), &tenants[draw.below(200) as usize]);
            let at = lakehead::event::time::format_micros(time);
            Bytes::from(format!(
                r#"{{"id":"{id}","type":"risk.evaluated","version":"1.0","timestamp":"{at}","tenantId":"{tenant}","source":{{"service":"risk-analytics"}},"data":{{{data}}}}}"#
            ))
        })
        .collect()
}

/// Events of every type of the catalog that lands, with their routing keys.
pub fn catalog_events(setup: &Setup, count: usize) -> Vec<(Bytes, String)> {
    let mut sampler = Sampler::new(&setup.catalog, 7);
    let types: Vec<_> = setup.catalog.iter().filter(|t| t.lands()).collect();
    (0..count)
        .map(|n| {
            let sample = sampler.sample(types[n % types.len()], NOW);
            (Bytes::from(sample.body), sample.routing_key)
        })
        .collect()
}

/// One bundle of these bodies.
pub fn bundle(events: impl Iterator<Item = (Bytes, Option<String>)>) -> Bundle {
    let deliveries = events.enumerate().map(|(n, (body, routing_key))| Delivery {
        body,
        tag: n as u64 + 1,
        flagged: false,
        attempt: 1,
        position: n as i64 + 1,
        properties: routing_key
            .map(|routing_key| Box::new(Properties { routing_key, ..Properties::default() })),
    });
    Bundle {
        channel: 1,
        deliveries: deliveries.collect(),
        received_at: NOW,
        charge: Budget::new(usize::MAX).charge(0),
    }
}

/// A decoder into these layouts; without any, into those of the consumers that the routing key leads to.
pub fn decoder(setup: &Setup, layouts: &[&str]) -> Decoder {
    let indices = |names: &[String]| setup.layout_indices(names).expect("a built-in layout");
    let route = if layouts.is_empty() {
        let consumers = setup.config.consumers.iter();
        Route::ByBinding(consumers.map(|c| (c.bindings.clone(), indices(&c.layouts))).collect())
    } else {
        Route::Fixed(indices(&layouts.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>()))
    };
    Decoder::new(setup.rules(route, "bench", "", KEY).into())
}

/// The rows of a block that belong to one layout.
pub fn rows_of(setup: &Setup, block: &Block, layout: &str) -> Rows {
    let wanted = setup.layouts.index(layout).expect("a built-in layout");
    let mut rows = Rows::default();
    for head in block.rows.iter().filter(|r| r.layout == wanted) {
        rows.push(&block.bytes[head.row.0 as usize..head.row.1 as usize], head.identity, head.time);
    }
    rows
}
