//! What tests of the archive from outside share: a home that signs, what its digests name, and how it is verified.
// Each test binary compiles this module and uses its own part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::support::Home;

/// A home with a key in `keys/` and a configuration that signs with it and trusts it; `archive` holds further lines of
/// that section, `more` further sections.
pub fn signing(home: Home, archive: &str, more: &str) -> Home {
    home.run(&["audit", "keygen", "--out", "keys"]).ok();
    configure(&home, archive, more);
    home
}

/// Writes the configuration of [`signing`].
pub fn configure(home: &Home, archive: &str, more: &str) {
    home.write(
        "lakehead.toml",
        format!(
            "[http]\nlisten = \"\"\n\n[archive]\nsigning_key_file = \"keys/signing-key.pem\"\n\
             trust_file = \"keys/trust.json\"\n{archive}\n\n{more}\n"
        ),
    );
}

/// `lakehead audit verify --json` with further arguments, and its report.
#[track_caller]
pub fn verify(home: &Home, args: &[&str], code: i32) -> Value {
    let all: Vec<&str> = ["audit", "verify", "--json"].iter().chain(args).copied().collect();
    home.run(&all).exits(code).json()
}

/// How often a report found something.
pub fn count(report: &Value, what: &str) -> u64 {
    report["counts"][what].as_u64().unwrap_or(0)
}

/// A stored digest, read without any of the program's code.
#[derive(Debug)]
pub struct Digest {
    pub path: PathBuf,
    pub header: Value,
    pub entries: Vec<Value>,
}

impl Digest {
    pub fn read(path: &Path) -> Digest {
        Digest::parse(path, &fs::read_to_string(path).expect("a digest"))
    }

    pub fn parse(path: &Path, text: &str) -> Digest {
        let mut all: Value = serde_json::from_str(text).expect("a digest is JSON");
        let payload = all["payload"].as_str().expect("a payload");
        let header = BASE64_STANDARD.decode(payload).expect("base64");
        let entries = all["entries"].as_array_mut().map(std::mem::take).expect("entries");
        Digest { path: path.to_owned(), header: serde_json::from_slice(&header).expect("a header"), entries }
    }

    pub fn kind(&self) -> &str {
        self.header["kind"].as_str().expect("a kind")
    }
}

/// All digests of an archive in a folder (without the copies of heads), by path.
pub fn digests(archive: &Path) -> Vec<Digest> {
    let mut found: Vec<PathBuf> = files(&archive.join("_integrity/v1"));
    found.retain(|p| p.to_string_lossy().contains("/chain="));
    found.iter().map(|p| Digest::read(p)).collect()
}

/// How many digests of each kind there are.
pub fn kinds(digests: &[Digest]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    digests.iter().for_each(|d| *kinds.entry(d.kind().to_owned()).or_default() += 1);
    kinds
}

/// The paths that digests name.
pub fn named(digests: &[Digest]) -> BTreeSet<String> {
    let entries = digests.iter().flat_map(|d| &d.entries);
    entries.map(|e| e["path"].as_str().expect("a path").to_owned()).collect()
}

/// All whole files below a folder, sorted; not what is still being written.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.to_string_lossy().contains('#') {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The blobs of an archive in a folder, relative to it.
pub fn blobs(archive: &Path) -> BTreeSet<String> {
    let found = files(archive).into_iter();
    let relative = found.map(|p| p.strip_prefix(archive).expect("below").to_string_lossy().into_owned());
    relative.filter(|p| p.starts_with("year=")).collect()
}
