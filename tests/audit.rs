//! `lakehead audit` and `check`, as an auditor and an operator would use them: every exit code, and what is said.
#![cfg(unix)]

mod evidence;
mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use evidence::{blobs, configure, count, digests, files, kinds, named, signing, verify};
use serde_json::Value;
use support::{Home, events, run};

/// Archives risk events `range` and nothing else.
fn archive(home: &Home, range: std::ops::Range<u64>) {
    let name = format!("in-{}.ndjson", range.start);
    home.events(&name, &range.map(events::risk).collect::<Vec<_>>());
    home.backfill(&["--layout", "ml_audit", &name]);
}

/// The only blob of risk event `n`.
fn blob(home: &Home, n: u64) -> std::path::PathBuf {
    let end = format!("-r-{n}.json");
    files(&home.path("lake/ml_audit"))
        .into_iter()
        .find(|p| p.to_string_lossy().ends_with(&end))
        .expect("a blob")
}

#[test]
fn an_archive_is_verified_and_the_report_can_be_filed() {
    let home = signing(Home::new(), "", "");
    archive(&home, 0..30);
    let ran = home.run(&["audit", "verify"]).ok().prints(&[
        "VERIFIED: everything asked for is there and as it was written",
        "archive ",
        "verified ",
        "days        2024-03-01 to 2024-03-03",
        "checked     30 blobs, ",
        "farewell",
        "--expect-head ",
    ]);
    let trust: Value =
        serde_json::from_slice(&fs::read(home.path("keys/trust.json")).expect("trust")).expect("JSON");
    let key = trust["keys"][0]["keyId"].as_str().expect("a key");
    assert!(ran.stdout.contains(&format!("key         {key} (")), "{}", ran.stdout);
    let report = verify(&home, &[], 0);
    assert_eq!((&report["verdict"], &report["blobs"]), (&"verified".into(), &30.into()));
    assert_eq!(report["days"], serde_json::json!(["2024-03-01", "2024-03-03"]));
    assert_eq!(report["keys"][0]["keyId"], key);
    assert_eq!(report["chains"][0]["state"], "farewell");
    assert_eq!(report["chains"][0]["entries"], 30);
    let stored = digests(&home.path("lake/ml_audit"));
    assert_eq!(report["digests"], stored.len());
    assert_eq!(named(&stored), blobs(&home.path("lake/ml_audit")));
    // A range and a tenant are said in the report; a pinned head is found.
    let pin = report["newestHead"].as_str().expect("a head");
    let part = verify(&home, &["--from", "2024-03-02", "--to", "2024-03-02", "--expect-head", pin], 0);
    assert_eq!(
        (&part["from"], &part["blobs"], &part["expectedHead"]),
        (&"2024-03-02".into(), &10.into(), &pin.into())
    );
    let tenant = verify(&home, &["--tenant", "t-3"], 0);
    assert_eq!((&tenant["tenant"], &tenant["blobs"]), (&"t-3".into(), &6.into()));
}

#[test]
fn what_was_altered_is_exit_1_with_the_findings_first() {
    let home = signing(Home::new(), "", "");
    archive(&home, 0..30);
    fs::write(blob(&home, 7), "{}").expect("altered");
    fs::remove_file(blob(&home, 8)).expect("removed");
    let ran = home.run(&["audit", "verify"]).exits(1);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "TAMPERED: the archive is not what was written");
    assert!(
        lines[2].starts_with("tampered    modified ") && lines[2].ends_with("r-7.json"),
        "{}",
        ran.stdout
    );
    assert!(lines[4].starts_with("tampered    missing ") && lines[4].ends_with("r-8.json"), "{}", ran.stdout);
    let report = verify(&home, &[], 1);
    assert_eq!((count(&report, "modified"), count(&report, "missing"), &report["blobs"]), (1, 1, &28.into()));
    let pinned = format!("1:{}", "0".repeat(64));
    let report = verify(&home, &["--expect-head", &pinned], 1);
    assert_eq!(count(&report, "rolled_back"), 1);
    // What is out of the range is not asked for.
    verify(&home, &["--from", "2024-03-01", "--to", "2024-03-01"], 0);
}

#[test]
fn without_a_trusted_key_or_with_mistaken_arguments_it_is_exit_2() {
    let home = signing(Home::new(), "", "");
    archive(&home, 0..3);
    home.run(&["audit", "verify", "--trust", "nowhere.json"]).exits(2).says(&["nowhere.json", "hint:"]);
    home.run(&["audit", "verify", "--from", "2024-03-02", "--to", "2024-03-01"]).exits(2).says(&["empty"]);
    home.run(&["audit", "verify", "--expect-head", "7:abc"]).exits(2).says(&["SHA-256"]);
    home.write(
        "other.json",
        fs::read_to_string(home.path("keys/trust.json")).expect("trust").replace("Ed25519", "ES256"),
    );
    home.run(&["audit", "verify", "--trust", "other.json"]).exits(2).says(&["other.json"]);
    home.write("lakehead.toml", "");
    home.run(&["audit", "verify"]).exits(2).says(&["no trusted key", "--trust"]);
    verify(&home, &["--trust", "keys/trust.json"], 0);
}

#[test]
fn a_store_or_an_anchor_that_cannot_be_reached_is_exit_3() {
    let home = signing(Home::new(), "", "[rabbitmq]\nconnect_timeout = \"1s\"");
    archive(&home, 0..3);
    let away = "endpoint = \"http://127.0.0.1:1\"\naccess_key_id = \"id\"\nsecret_access_key = \"key\"";
    configure(&home, &format!("url = \"s3://away\"\n{away}"), "[rabbitmq]\nconnect_timeout = \"1s\"");
    home.run(&["audit", "verify"]).exits(3).says(&["s3://away", "hint:"]);
    configure(
        &home,
        "",
        &format!("[archive.anchor]\nurl = \"s3://away\"\n{away}\n[limits]\nput_deadline = \"1s\""),
    );
    home.run(&["audit", "verify"]).exits(3).says(&["hint:"]);
    // A mistyped folder is not made into an empty archive.
    home.write("lakehead.toml", "[data_lake]\nurl = \"./laek\"\n");
    home.run(&["audit", "verify", "--trust", "keys/trust.json"])
        .exits(3)
        .says(&["there is no folder ./laek"]);
    configure(&home, "", "");
    home.run(&["audit", "verify", "--anchor", "./anchro"]).exits(3).says(&["there is no folder ./anchro"]);
    assert!(!home.path("laek").exists() && !home.path("anchro").exists(), "a folder was created");
}

#[test]
fn what_is_not_proved_is_exit_4() {
    // Nothing at all, and an archive that was written without a key.
    let home = signing(Home::new(), "", "");
    fs::create_dir(home.path("lake")).expect("created");
    let report = verify(&home, &[], 4);
    assert_eq!((count(&report, "no_digests"), count(&report, "nothing_checked")), (1, 1));
    home.write("lakehead.toml", "");
    archive(&home, 0..3);
    let report = verify(&home, &["--trust", "keys/trust.json"], 4);
    assert_eq!((count(&report, "no_digests"), count(&report, "pending")), (1, 3), "{report:#}");
    home.run(&["audit", "verify", "--trust", "keys/trust.json"])
        .exits(4)
        .prints(&["INCOMPLETE", "no_digests"]);
    // Then with one: what the auditor knows to be from before is not proved, and never will be. Its age proves nothing.
    configure(&home, "", "");
    archive(&home, 10..13);
    for n in 0..3 {
        let old = SystemTime::now() - Duration::from_secs(9_000);
        fs::File::options().append(true).open(blob(&home, n)).expect("open").set_modified(old).expect("set");
    }
    let report = verify(&home, &[], 1);
    assert_eq!((count(&report, "unlisted"), count(&report, "before_first_digest")), (3, 0), "{report:#}");
    assert!(report["findings"][0]["detail"].to_string().contains("--unsigned-before"), "{report:#}");
    let before = |day: &str, code| verify(&home, &["--unsigned-before", day], code);
    let report = before("2999-01-01", 4);
    assert_eq!((count(&report, "before_first_digest"), &report["blobs"]), (3, &3.into()), "{report:#}");
    assert_eq!(report["unsignedBefore"], "2999-01-01");
    home.run(&["audit", "verify", "--unsigned-before", "2999-01-01"])
        .exits(4)
        .prints(&["unsigned    before 2999-01-01"]);
    assert_eq!(
        count(&before("2024-03-01", 1), "unlisted"),
        3,
        "the day is that of the store, not the event's"
    );
    // Added later it is an accusation, whatever the auditor says.
    let later = SystemTime::now() - Duration::from_secs(5_000);
    for file in files(&home.path("lake/ml_audit/_integrity")) {
        let earlier = SystemTime::now() - Duration::from_secs(20_000);
        fs::File::options().append(true).open(file).expect("open").set_modified(earlier).expect("set");
    }
    fs::File::options().append(true).open(blob(&home, 0)).expect("open").set_modified(later).expect("set");
    assert_eq!(count(&before("2999-01-01", 1), "unlisted"), 3);
    // A day of which nothing is there.
    let home = signing(Home::new(), "", "");
    archive(&home, 0..3);
    let report = verify(&home, &["--from", "2020-01-01", "--to", "2020-01-02"], 4);
    assert_eq!((count(&report, "nothing_checked"), &report["blobs"]), (1, &0.into()));
}

#[test]
fn an_anchor_shows_a_chain_that_is_gone_without_a_trace() {
    let home = signing(Home::new(), "anchor_url = \"./anchor\"", "");
    archive(&home, 0..6);
    let known = blobs(&home.path("lake/ml_audit"));
    let chain = fs::read_dir(home.path("lake/ml_audit/_integrity/v1"))
        .expect("there")
        .flatten()
        .map(|e| e.file_name());
    let first: Vec<_> = chain.collect();
    archive(&home, 10..16);
    let report = verify(&home, &[], 0);
    let here = files(&home.path("lake/ml_audit/_integrity/v1/heads")).len() as u64;
    assert_eq!(report["heads"].as_u64(), Some(2 * here), "those of the anchor count too: {report:#}");
    assert_eq!(
        files(&home.path("anchor/ml_audit")).len(),
        files(&home.path("lake/ml_audit/_integrity/v1/heads")).len()
    );
    let mut removed = 0;
    // The newest chain with all it names: nothing in the archive itself remembers it.
    for entry in fs::read_dir(home.path("lake/ml_audit/_integrity/v1")).expect("there").flatten() {
        if !first.contains(&entry.file_name()) {
            let id = entry.file_name().to_string_lossy().replace("chain=", "");
            fs::remove_dir_all(entry.path()).expect("removed");
            for head in files(&home.path("lake/ml_audit/_integrity/v1/heads")) {
                if head.to_string_lossy().contains(&id) {
                    fs::remove_file(head).expect("removed");
                    removed += 1;
                }
            }
        }
    }
    // One or two: a run that ends before it has looked around says both in its farewell.
    assert!(removed >= 1, "a run writes a head");
    for path in blobs(&home.path("lake/ml_audit")).difference(&known) {
        fs::remove_file(home.path("lake/ml_audit").join(path)).expect("removed");
    }
    let report = verify(&home, &[], 1);
    assert!(count(&report, "truncated") >= removed, "{report:#}");
    assert!(report["findings"].to_string().contains("anchor "), "{report:#}");
    // Without it, that passes: docs/archive-format.md says so.
    configure(&home, "", "");
    verify(&home, &[], 0);
    // Named on the command line; one that lacks heads proves less.
    assert!(count(&verify(&home, &["--anchor", "./anchor"], 1), "truncated") >= removed);
    let left = files(&home.path("lake/ml_audit/_integrity/v1/heads")).len() as u64;
    fs::create_dir(home.path("empty")).expect("created");
    let lacks = verify(&home, &["--anchor", "./empty"], 4);
    assert_eq!(count(&lacks, "not_anchored"), left, "{lacks:#}");
}

#[test]
fn an_anchor_that_was_away_gets_what_it_lacks_from_the_next_run() {
    let home = signing(Home::new(), "anchor_url = \"./anchor\"", "");
    let heads = |root: &str| files(&home.path(&format!("{root}/ml_audit/_integrity/v1/heads"))).len();
    // A file where its folder should be: nothing can be put there.
    fs::create_dir_all(home.path("anchor")).expect("created");
    fs::write(home.path("anchor/ml_audit"), "").expect("written");
    archive(&home, 0..3);
    archive(&home, 10..13);
    fs::remove_file(home.path("anchor/ml_audit")).expect("removed");
    let lacks = verify(&home, &[], 4);
    assert_eq!(count(&lacks, "not_anchored") as usize, heads("lake"), "{lacks:#}");
    archive(&home, 20..23);
    assert_eq!(heads("anchor"), heads("lake"));
    verify(&home, &[], 0);
}

/// Somebody who takes connections and says nothing, and the settings of a store there.
fn silent_store() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let store = format!(
        "url = \"s3://evidence\"\nendpoint = \"http://{address}\"\nregion = \"x\"\naccess_key_id = \"x\"\n\
         secret_access_key = \"x\"\n"
    );
    (listener, store)
}

#[test]
fn an_anchor_that_says_nothing_is_told_of_and_no_reason_to_stop() {
    let (_listener, anchor) = silent_store();
    let more = format!("[archive.anchor]\n{anchor}\n[limits]\nput_deadline = \"1s\"");
    let home = signing(Home::new(), "", &more);
    home.events("in.ndjson", &(0..3).map(events::risk).collect::<Vec<_>>());
    home.run(&["backfill", "--layout", "ml_audit", "in.ndjson"]).ok().says(&["is not anchored"]);
    assert_eq!(blobs(&home.path("lake/ml_audit")).len(), 3);
}

#[test]
fn a_backfill_gives_up_an_archive_that_says_nothing() {
    let (_listener, archive) = silent_store();
    let more = "[limits]\nput_deadline = \"1s\"\n[rabbitmq]\nconnect_timeout = \"3s\"";
    let home = signing(Home::new(), &archive, more);
    home.events("in.ndjson", &(0..3).map(events::risk).collect::<Vec<_>>());
    home.write("empty.ndjson", "");
    // Where there is nothing to archive, only the chain cannot be begun.
    for input in ["in.ndjson", "empty.ndjson"] {
        home.run(&["backfill", input]).exits(3).says(&["gave up"]);
    }
    home.lake().holds_once("risk_evaluations", events::risk_ids(3));
}

#[test]
fn many_short_runs_add_little_each_and_all_are_proved() {
    let home = signing(Home::new(), "", "");
    let size = |home: &Home| -> u64 {
        let found = files(&home.path("lake/ml_audit/_integrity"));
        found.iter().map(|f| f.metadata().expect("there").len()).sum()
    };
    let mut grown = Vec::new();
    for n in 0..24 {
        let before = size(&home);
        archive(&home, n * 10..n * 10 + 1);
        grown.push(size(&home) - before);
    }
    let (early, late) = (grown[4], grown[23]);
    assert!(late < early + 100 && late < 12 << 10, "{grown:?}");
    let report = verify(&home, &[], 0);
    assert_eq!((&report["blobs"], report["chains"].as_array().map(Vec::len)), (&24.into(), Some(24)));
    // Any of them, taken away without a trace, is missed by the one that came after it.
    let v1 = home.path("lake/ml_audit/_integrity/v1");
    let mut chains: Vec<_> = fs::read_dir(&v1).expect("there").flatten().map(|e| e.file_name()).collect();
    chains.retain(|c| c.to_string_lossy().starts_with("chain="));
    chains.sort();
    fs::rename(v1.join(&chains[5]), home.path("away")).expect("moved");
    assert!(count(&verify(&home, &[], 1), "truncated") >= 1);
    // The next run goes on, and vouches for no more than it found.
    archive(&home, 500..501);
    assert!(count(&verify(&home, &[], 1), "truncated") >= 1);
    fs::rename(home.path("away"), v1.join(&chains[5])).expect("put back");
    verify(&home, &[], 0);
}

#[test]
fn keys_are_rotated_by_both() {
    let home = signing(Home::new(), "", "");
    archive(&home, 0..6);
    home.run(&["audit", "keygen", "--out", "keys"]).exits(2).says(&["is there already"]);
    home.run(&["audit", "keygen", "--out", "new", "--rotate-from", "keys/signing-key.pem"])
        .exits(2)
        .says(&["--trust"]);
    let (old, trust) = ("keys/signing-key.pem", "keys/trust.json");
    home.run(&["audit", "keygen", "--out", "new", "--rotate-from", old, "--trust", trust])
        .ok()
        .prints(&["key "]);
    // The old writer may go on for a week.
    archive(&home, 10..16);
    fs::rename(home.path("keys"), home.path("old")).expect("moved");
    fs::rename(home.path("new"), home.path("keys")).expect("moved");
    archive(&home, 20..26);
    let report = verify(&home, &[], 0);
    assert_eq!(
        (report["keys"].as_array().map(Vec::len), &report["blobs"]),
        (Some(2), &18.into()),
        "{report:#}"
    );
    let before = verify(&home, &["--trust", "old/trust.json"], 1);
    assert!(count(&before, "unknown_key") > 0, "{before:#}");
    // Who trusts the new file trusts it because of both signatures.
    let text = fs::read_to_string(home.path("keys/trust.json")).expect("trust");
    let whole: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(whole["rotations"][0]["signatures"].as_array().map(Vec::len), Some(2));
    for n in 0..2 {
        let mut cut = whole.clone();
        cut["rotations"][0]["signatures"].as_array_mut().expect("a list").remove(n);
        home.write("cut.json", cut.to_string());
        home.run(&["audit", "verify", "--trust", "cut.json"]).exits(2).says(&["no signature of key"]);
    }
    let mut none = whole.clone();
    none["rotations"] = serde_json::json!([]);
    home.write("none.json", none.to_string());
    home.run(&["audit", "verify", "--trust", "none.json"]).exits(2).says(&["no rotation signed by both"]);
    let mut longer = whole;
    longer["keys"][0].as_object_mut().expect("a key").remove("notAfter");
    home.write("longer.json", longer.to_string());
    home.run(&["audit", "verify", "--trust", "longer.json"]).exits(2).says(&["does not end when it says"]);
}

#[test]
fn a_key_that_does_not_count_does_not_sign() {
    let home = signing(Home::new(), "", "");
    archive(&home, 0..6);
    home.events("more.ndjson", &(10..16).map(events::risk).collect::<Vec<_>>());
    let own = fs::read_to_string(home.path("keys/trust.json")).expect("trust");
    let refused = |trust: String, why: &str| {
        home.write("keys/trust.json", trust);
        home.run(&["backfill", "--layout", "ml_audit", "more.ndjson"]).exits(2).says(&[why, "hint:"]);
        home.run(&["check"]).exits(2).prints(&["archive.trust_file", why]);
    };
    home.run(&["audit", "keygen", "--out", "other"]).ok();
    let other = fs::read_to_string(home.path("other/trust.json")).expect("trust");
    refused(other, "is not in the trust file");
    let with = |key: &str, time: &str| {
        let mut trust: Value = serde_json::from_str(&own).expect("JSON");
        trust["keys"][0][key] = time.into();
        trust.to_string()
    };
    refused(with("notBefore", "2999-01-01T00:00:00.000000Z"), "counts from 2999-01-01");
    refused(with("notAfter", "2026-01-01T00:00:00.000000Z"), "counted until 2026-01-01");
    home.write("keys/trust.json", with("notAfter", "2999-01-01T00:00:00.000000Z"));
    home.run(&["check"]).ok().prints(&["archive.signing_key_file", "ends at 2999-01-01"]);
    // Nothing of it was signed; and who verifies needs no key.
    fs::remove_file(home.path("keys/signing-key.pem")).expect("removed");
    assert_eq!(verify(&home, &[], 0)["blobs"], 6);
    home.run(&["backfill", "--layout", "ml_audit", "more.ndjson"])
        .exits(2)
        .says(&["cannot read the signing key", "audit keygen"]);
    home.run(&["check"]).exits(2).prints(&["archive.signing_key_file", "cannot read the signing key"]);
}

#[test]
fn check_says_what_the_proof_lacks() {
    let home = Home::new();
    let without = home.run(&["check"]).ok().prints(&["no signing key", "nothing proves", "audit keygen"]);
    assert!(!without.stdout.contains("trusted keys"));
    let home = signing(home, "", "");
    home.run(&["check"]).ok().prints(&["keys/signing-key.pem", "keys/trust.json", "no anchor"]);
    assert!(
        home.run(&["check", "--json"]).ok().json()["proof"]
            .as_str()
            .is_some_and(|p| p.contains("signed with"))
    );
    configure(&home, "anchor_url = \"./anchor\"", "");
    home.run(&["check"]).ok().prints(&["heads copied to: ./anchor"]);
}

#[test]
fn an_export_is_written_and_what_does_not_hold_is_exit_1() {
    let home = signing(Home::new(), "", "");
    archive(&home, 0..30);
    home.run(&["audit", "export", "--tenant", "t-1", "--out", "mine"])
        .ok()
        .prints(&["6 blobs of tenant t-1"]);
    assert_eq!(files(&home.path("mine/blobs")).len(), 6);
    home.run(&["audit", "export", "--tenant", "t-1", "--out", "mine"]).exits(2).says(&["not empty"]);
    // Who asked: as the session says, else the number of whoever owns what is written here.
    let owner = fs::metadata(home.path("mine/custody.json")).expect("written").uid();
    let number = format!("uid {owner}@");
    let asked = [("ann", "", "ann@"), ("", "bob", "bob@"), ("", "", number.as_str())];
    for (n, (user, name, by)) in asked.into_iter().enumerate() {
        let out = format!("mine-{n}");
        let mut command = home.command(&["audit", "export", "--tenant", "t-1", "--out", &out]);
        command.env("USER", user).env("LOGNAME", name);
        run(command, b"").ok();
        let custody = fs::read_to_string(home.path(&out).join("custody.json")).expect("written");
        assert!(custody.contains(&format!("\"exportedBy\": \"{by}")), "{by}: {custody}");
    }
    home.run(&["audit", "export", "--tenant", "nobody", "--out", "nothing"])
        .exits(4)
        .says(&["no digest names an event of this tenant"]);
    fs::write(blob(&home, 1), "{}").expect("altered");
    home.run(&["audit", "export", "--tenant", "t-1", "--out", "again"]).exits(1).says(&["not as listed"]);
}

#[test]
fn heads_name_every_chain_and_a_lost_copy_is_made_again_by_the_next_writer() {
    let home = signing(Home::new(), "", "");
    archive(&home, 0..3);
    // As a writer leaves it that is killed between its farewell and the copy.
    let last = |home: &Home| files(&home.path("lake/ml_audit/_integrity/v1/heads")).pop().expect("a head");
    let copy = last(&home);
    let bytes = fs::read(&copy).expect("a copy");
    fs::remove_file(&copy).expect("removed");
    let report = verify(&home, &[], 4);
    assert_eq!(count(&report, "head_copy"), 1, "{report:#}");
    archive(&home, 10..13);
    assert_eq!(fs::read(&copy).expect("made again"), bytes);
    assert_eq!(count(&verify(&home, &[], 0), "no_writer"), 1, "between the two");
    // Named by another chain, it was there: now its loss is an accusation.
    fs::remove_file(&copy).expect("removed");
    assert_eq!(count(&verify(&home, &[], 1), "head_copy"), 1);
    let all = digests(&home.path("lake/ml_audit"));
    assert_eq!(kinds(&all)["farewell"], 2);
    let heads = all.iter().filter(|d| d.header["chains"].as_array().is_some_and(|c| c.len() == 1)).count();
    assert_eq!(heads, 1, "the second chain names the first, once");
}

/// What somebody with write access to a local archive might try, beyond what the property tests mutate.
#[test]
fn what_does_not_belong_there_is_never_overlooked() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let home = signing(Home::new(), "", "");
    archive(&home, 0..9);
    let root = home.path("lake/ml_audit");
    let chain = fs::read_dir(root.join("_integrity/v1")).expect("there").flatten().map(|e| e.path());
    let chain = chain.into_iter().find(|p| p.to_string_lossy().contains("chain=")).expect("a chain");
    let day = blob(&home, 3).parent().expect("a day").to_owned();
    let odd = OsStr::from_bytes(b"\xff\xfe.json");
    let added = [
        (day.join("x.json#a#1"), "unlisted"),
        (day.join(".x.json"), "unlisted"),
        (day.join(odd), "unlisted"),
        (day.join("a\nb.json"), "unlisted"),
        (day.join("sub/x.json"), "unlisted"),
        (root.join("year=2024/month=03/day=1/x.json"), "unlisted"),
        (root.join("Year=2024/x.json"), "unlisted"),
        (root.join("_integrity2/x.json"), "unlisted"),
        (root.join("_integrity/x"), "stray"),
        (root.join("_integrity/v1/chain=x"), "stray"),
        (chain.join("+0000000000000000001.dsse.json"), "stray"),
        (chain.join("sub/00000000000000000000.dsse.json"), "stray"),
        (root.join("_integrity/v1/heads/date=2026-01-01/x.dsse.json"), "unreadable"),
    ];
    for (path, what) in added {
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(&path, "{}").expect("written");
        let report = verify(&home, &[], 1);
        assert_eq!(count(&report, what), 1, "{path:?}: {report:#}");
        fs::remove_file(&path).expect("removed");
    }
    for path in
        [root.join(odd), chain.join(odd), root.join("a\nb.json"), root.join("_integrity/v1/chain=a\nb/x")]
    {
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(&path, "{}").expect("written");
        home.run(&["audit", "verify"]).exits(1).says(&["has a name that no writer gives", "hint:"]);
        fs::remove_file(&path).expect("removed");
        let above = path.parent().expect("a folder");
        if above.to_string_lossy().contains('\n') {
            fs::remove_dir(above).expect("removed");
        }
    }
    // A pipe is not waited for.
    let (pipe, whole) = (blob(&home, 3), fs::read(blob(&home, 3)).expect("a blob"));
    fs::remove_file(&pipe).expect("removed");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    assert_eq!(count(&verify(&home, &[], 1), "modified"), 1);
    fs::remove_file(&pipe).expect("removed");
    fs::write(&pipe, &whole).expect("restored");
    // One signature twice would be valid, and other bytes than those that were stored.
    let farewell = files(&chain).pop().expect("a farewell");
    let copy = files(&root.join("_integrity/v1/heads")).pop().expect("its copy");
    let text = fs::read_to_string(&farewell).expect("a digest");
    let (_, rest) = text.split_once("\"signatures\":[").expect("signatures");
    let (one, _) = rest.split_once(']').expect("their end");
    for path in [&farewell, &copy] {
        fs::write(path, text.replacen(one, &format!("{one},{one}"), 1)).expect("altered");
    }
    assert_eq!(count(&verify(&home, &[], 1), "bad_signature"), 1);
    for path in [&farewell, &copy] {
        fs::write(path, &text).expect("restored");
    }
    // A file where a day should be.
    fs::rename(&day, home.path("away")).expect("moved");
    fs::write(&day, "{}").expect("written");
    assert_eq!(count(&verify(&home, &[], 1), "missing"), 3);
    fs::remove_file(&day).expect("removed");
    fs::rename(home.path("away"), &day).expect("moved");
    // What a put leaves that was killed is named, and no more.
    fs::write(day.join("risk.evaluated-r-99.json#1"), "{").expect("written");
    assert_eq!(count(&verify(&home, &[], 0), "leftover"), 1);
}
