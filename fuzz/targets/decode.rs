//! Any body, as every built-in layout would take it: it lands or is refused, and becomes something.
#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use lakehead::command::setup::Setup;
use lakehead::config::Config;
use lakehead::layout::row::IdentityKey;
use lakehead::pipeline::Budget;
use lakehead::pipeline::decode::{Decoder, Route, Rules};
use lakehead::pipeline::delivery::{Bundle, Delivery, Properties};
use libfuzzer_sys::fuzz_target;

const NOW: i64 = 1_769_169_600_000_000;

fn rules() -> Arc<Rules> {
    static RULES: OnceLock<Arc<Rules>> = OnceLock::new();
    let make = || {
        let (config, _) = Config::read_text(Path::new("none.toml"), "", std::iter::empty());
        let setup = Setup::new(config).expect("the built-in layouts");
        let all = setup.layouts.names().into_iter().filter(|n| !n.starts_with('_')).map(str::to_owned);
        let all = setup.layout_indices(&all.collect::<Vec<_>>()).expect("their own names");
        Arc::new(setup.rules(Route::Fixed(all), "fuzz", "queue", IdentityKey(1, 2)))
    };
    Arc::clone(RULES.get_or_init(make))
}

fuzz_target!(|input: &[u8]| {
    // The first byte chooses how the body came: from a file, or under one of these keys.
    let keys = ["risk.evaluated", "workflow.payment_recorded", "auth.login.failed", ""];
    let (first, body) = input.split_first().unwrap_or((&0, input));
    let key = keys.get(usize::from(*first) % (keys.len() + 1));
    let properties = key.map(|k| Properties { routing_key: (*k).into(), ..Properties::default() });
    let delivery = Delivery {
        body: body.to_vec().into(),
        tag: 1,
        flagged: true,
        attempt: 2,
        position: 1,
        properties: properties.map(Box::new),
    };
    let charge = Budget::new(usize::MAX).charge(body.len());
    let bundle = Bundle { channel: 1, deliveries: vec![delivery], received_at: NOW, charge };
    let block = Decoder::new(rules()).decode(bundle, NOW);
    assert!(!(block.rows.is_empty() && block.blobs.is_empty()), "it became nothing");
});
