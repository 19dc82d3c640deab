//! Any text as a configuration: it is read, or its problems are told.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use lakehead::config::Config;
use lakehead::event::catalog::Catalog;
use lakehead::layout::Layouts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    static LAYOUTS: OnceLock<Layouts> = OnceLock::new();
    let layouts =
        LAYOUTS.get_or_init(|| Layouts::load(&Catalog::builtin(), None, &[]).expect("the built-in layouts"));
    let (config, _) = Config::read_text(Path::new("fuzzed.toml"), text, std::iter::empty());
    // What it finds is not asked for: that it comes back is.
    let _ = config.validate(layouts);
});
