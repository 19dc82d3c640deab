//! With a pinned head, any single mutation of an archive is found, and none in an untouched one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lakehead::archive::digest::{Envelope, seal};
use lakehead::archive::verify::{Report, Verdict};
use lakehead::archive::{Options, Signer};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::*;

type Objects = BTreeMap<String, Bytes>;

#[derive(Debug, Clone)]
enum Mutation {
    Flip(Index, Index, u8),
    Delete(Index),
    AddBlob(u32),
    AddCopy(Index, Index),
    Rename(Index, bool),
    Swap(Index, Index),
    Redate(Index),
    CutBytes(Index, Index),
    CutTail(Index, usize),
    Resign(Index, bool),
    Replay(Index, Index),
    ReplayAsNext(Index),
    ReplayAsNewChain(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use Mutation::*;
    let i = any::<Index>;
    prop_oneof![
        4 => (i(), i(), 0u8..8).prop_map(|(a, b, c)| Flip(a, b, c)),
        3 => i().prop_map(Delete),
        1 => (100u32..200).prop_map(AddBlob),
        2 => (i(), i()).prop_map(|(a, b)| AddCopy(a, b)),
        2 => (i(), any::<bool>()).prop_map(|(a, b)| Rename(a, b)),
        2 => (i(), i()).prop_map(|(a, b)| Swap(a, b)),
        1 => i().prop_map(Redate),
        2 => (i(), i()).prop_map(|(a, b)| CutBytes(a, b)),
        1 => (i(), 1usize..4).prop_map(|(a, b)| CutTail(a, b)),
        2 => (i(), any::<bool>()).prop_map(|(a, b)| Resign(a, b)),
        2 => (i(), i()).prop_map(|(a, b)| Replay(a, b)),
        1 => i().prop_map(ReplayAsNext),
        1 => i().prop_map(ReplayAsNewChain),
    ]
}

fn pick<'a>(objects: &'a Objects, index: &Index, wanted: &str) -> &'a str {
    let keys: Vec<&str> = objects.keys().map(String::as_str).filter(|k| k.contains(wanted)).collect();
    keys[index.index(keys.len())]
}

/// Applies a mutation; false if it changed nothing.
fn apply(objects: &mut Objects, mutation: &Mutation) -> bool {
    let before = objects.clone();
    match mutation {
        Mutation::Flip(at, byte, bit) => {
            let key = pick(&before, at, "");
            let mut bytes = before[key].to_vec();
            let n = byte.index(bytes.len());
            bytes[n] ^= 1 << bit;
            objects.insert(key.into(), bytes.into());
        }
        Mutation::Delete(at) => {
            objects.remove(pick(&before, at, ""));
        }
        Mutation::AddBlob(n) => {
            let (path, bytes, _) = event(*n, real_now() - 5 * 86_400_000_000);
            objects.insert(format!("root/{path}"), bytes.into());
        }
        Mutation::AddCopy(at, to) => {
            let (from, beside) = (pick(&before, at, ""), pick(&before, to, ""));
            let folder = beside.rsplit_once('/').map_or("", |(folder, _)| folder);
            objects.insert(format!("{folder}/00000000000000000099.dsse.json"), before[from].clone());
        }
        Mutation::Rename(at, all) => {
            let key = pick(&before, at, "");
            let to = if *all { "root/ml_audit/renamed.json".into() } else { key.replace(".json", "0.json") };
            let bytes = objects.remove(key).unwrap_or_default();
            objects.insert(to, bytes);
        }
        Mutation::Swap(a, b) => {
            let (a, b) = (pick(&before, a, ""), pick(&before, b, ""));
            objects.insert(a.into(), before[b].clone());
            objects.insert(b.into(), before[a].clone());
        }
        Mutation::Redate(at) => {
            let key = pick(&before, at, "year=");
            let bytes = objects.remove(key).unwrap_or_default();
            let (folder, name) = key.rsplit_once('/').unwrap();
            let days = ["day=01", "day=02"];
            let day = days[usize::from(folder.ends_with(days[0]))];
            let (month, _) = folder.rsplit_once('/').unwrap();
            objects.insert(format!("{month}/{day}/{name}"), bytes);
        }
        Mutation::CutBytes(at, len) => {
            let key = pick(&before, at, "");
            let bytes = before[key].slice(..len.index(before[key].len()));
            objects.insert(key.into(), bytes);
        }
        Mutation::CutTail(at, n) => {
            let key = pick(&before, at, "chain=");
            let (folder, _) = key.rsplit_once('/').unwrap();
            let chain: Vec<_> = before.keys().filter(|k| k.starts_with(folder)).rev().take(*n).collect();
            chain.into_iter().for_each(|k| drop(objects.remove(k)));
        }
        Mutation::Resign(at, es) => {
            let key = pick(&before, at, ".dsse.json");
            let e = Envelope::parse(&before[key]).unwrap();
            let lines: Vec<String> = e.lines.iter().map(|l| (*l).to_owned()).collect();
            let signer = if *es { es256(66) } else { ed25519(66) };
            let bytes = seal(e.header, &lines, signer.as_ref()).unwrap();
            objects.insert(key.into(), bytes.into());
        }
        Mutation::Replay(from, to) => {
            let (from, to) = (pick(&before, from, "chain="), pick(&before, to, "chain="));
            objects.insert(to.into(), before[from].clone());
        }
        Mutation::ReplayAsNext(at) => {
            let key = pick(&before, at, "chain=");
            let (folder, _) = key.rsplit_once('/').unwrap();
            let n = before.keys().filter(|k| k.starts_with(folder)).count();
            objects.insert(format!("{folder}/{n:020}.dsse.json"), before[key].clone());
        }
        Mutation::ReplayAsNewChain(at) => {
            let key = pick(&before, at, "chain=");
            let to = "root/ml_audit/_integrity/v1/chain=replay/00000000000000000000.dsse.json";
            objects.insert(to.into(), before[key].clone());
        }
    }
    *objects != before
}

/// What verification must say. Only one loss is no accusation: the copy of the archive's last farewell, which a writer
/// killed between the two puts never made; the farewell itself is there. Whoever looked since would have made the copy.
fn wanted(before: &Objects, after: &Objects) -> Verdict {
    let gone: Vec<&String> = before.keys().filter(|k| !after.contains_key(*k)).collect();
    let copy = |k: &String| k.contains("/heads/") && k.contains("chain-3-00000000000000000004");
    let just_that = gone.len() == 1 && copy(gone[0]) && before.len() == after.len() + 1;
    if just_that { Verdict::Incomplete } else { Verdict::Tampered }
}

struct Archive {
    runtime: tokio::runtime::Runtime,
    objects: Objects,
    options: Options,
}

fn archive(signer: &Arc<dyn Signer>) -> Archive {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (objects, pin) = runtime.block_on(async {
        let place = in_memory();
        let (_, pin) = full_archive(&place, None, signer).await;
        (dump(&place).await, pin)
    });
    let mut options = options(signer);
    options.expect_head = Some(pin);
    Archive { runtime, objects, options }
}

impl Archive {
    fn verify(&self, objects: &Objects) -> Report {
        self.runtime.block_on(async { check(&load(objects).await, &self.options).await })
    }
}

#[test]
fn any_single_mutation_is_found() {
    any_single_mutation_is_found_with(&ed25519(1), 300);
    // What differs is only the signature; checking one takes longer.
    any_single_mutation_is_found_with(&es256(2), 150);
}

fn any_single_mutation_is_found_with(signer: &Arc<dyn Signer>, cases: u32) {
    let archive = archive(signer);
    let untouched = archive.verify(&archive.objects);
    assert_eq!(untouched.verdict, Verdict::Verified, "{}", untouched.to_text());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(mutation in mutation())| {
        let mut objects = archive.objects.clone();
        if apply(&mut objects, &mutation) {
            let report = archive.verify(&objects);
            let wanted = wanted(&archive.objects, &objects);
            prop_assert_eq!(report.verdict, wanted, "{:?}: {}", mutation, report.to_text());
        }
    });
}

#[test]
fn deleting_or_cutting_any_object_is_found() {
    for signer in [ed25519(1), es256(2)] {
        deleting_or_cutting_any_object_is_found_with(&signer);
    }
}

fn deleting_or_cutting_any_object_is_found_with(signer: &Arc<dyn Signer>) {
    let archive = archive(signer);
    for key in archive.objects.keys() {
        let mut objects = archive.objects.clone();
        let bytes = objects.remove(key).unwrap();
        let report = archive.verify(&objects);
        assert_eq!(report.verdict, wanted(&archive.objects, &objects), "deleted {key}: {}", report.to_text());
        objects.insert(key.clone(), bytes.slice(..bytes.len() - 1));
        let report = archive.verify(&objects);
        assert_eq!(report.verdict, Verdict::Tampered, "cut {key}: {}", report.to_text());
    }
}
