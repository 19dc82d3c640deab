//! The archive on a real S3 bucket under Object Lock, and what `check --connect` says of a folder, a plain bucket, a
//! versioned one and a locked one.
#![cfg(unix)]

mod evidence;
mod support;

use evidence::{configure, count, signing, verify};
use support::{Home, Minio, Response, events};

const BUCKET: &str = "archive";

/// A home whose lake is a folder, and whose archive lies in a bucket.
fn apart(minio: &Minio) -> Home {
    let home = Home::new().with(&minio.environment());
    let home = signing(home, "", "");
    configure(&home, &format!("url = \"s3://{BUCKET}/evidence\""), BROKER);
    home
}

/// Nobody listens there; a check asks the stores all the same.
const BROKER: &str = "[rabbitmq]\nurl = \"amqp://127.0.0.1:1\"\nconnect_timeout = \"1s\"";

fn archive(home: &Home, range: std::ops::Range<u64>) {
    home.events("in.ndjson", &range.map(events::risk).collect::<Vec<_>>());
    home.backfill(&["--layout", "ml_audit", "in.ndjson"]);
}

fn path(n: u64) -> String {
    // As it is signed: `=` is encoded.
    let day = events::partition(n).replace('=', "%3D");
    format!("/{BUCKET}/evidence/ml_audit/{day}/risk.evaluated-r-{n}.json")
}

fn header(answer: &Response, name: &str) -> String {
    let mut lines = answer.head.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.unwrap_or_else(|| panic!("no {name} in {}", answer.head)).1.to_owned()
}

/// What `check --connect` says of the archive.
fn said(home: &Home) -> String {
    let report = home.run(&["check", "--connect", "--json"]).exits(3).json();
    let answers = report["answers"].as_array().expect("a list");
    let archive = answers.iter().find(|a| a["asked"].as_str().is_some_and(|q| q.starts_with("archive ")));
    archive.unwrap_or_else(|| panic!("{report:#}"))["answer"].as_str().expect("text").to_owned()
}

#[test]
fn what_lies_under_compliance_lock_cannot_be_deleted_or_replaced() {
    let minio = Minio::start();
    minio.locked_bucket(BUCKET, 1);
    let home = apart(&minio);
    archive(&home, 0..12);
    assert_eq!(verify(&home, &[], 0)["blobs"], 12);
    assert!(home.lake().blobs().is_empty(), "nothing of the archive is in the lake");

    // A version is kept, whoever asks for its end.
    let there = minio.request("GET", &path(5), "", &[], b"");
    let (version, bytes) = (header(&there, "x-amz-version-id"), there.text());
    let query = format!("versionId={version}");
    let refused = minio.request("DELETE", &path(5), &query, &[], b"");
    assert!(
        refused.status >= 400 && refused.text().contains("WORM"),
        "{}: {}",
        refused.status,
        refused.text()
    );
    let bypass = [("x-amz-bypass-governance-retention", "true")];
    assert!(minio.request("DELETE", &path(5), &query, &bypass, b"").status >= 400);
    assert_eq!(minio.request("PUT", &path(5), "", &[("if-none-match", "*")], b"{}").status, 412);
    assert_eq!(verify(&home, &[], 0)["blobs"], 12);

    // A marker hides it, and is found; without the marker all is as it was.
    let marked = minio.request("DELETE", &path(5), "", &[], b"");
    let marker = header(&marked, "x-amz-version-id");
    assert_eq!(count(&verify(&home, &[], 1), "missing"), 1);
    assert_eq!(minio.request("DELETE", &path(5), &format!("versionId={marker}"), &[], b"").status, 204);
    assert_eq!(verify(&home, &[], 0)["blobs"], 12);

    // The same events again change nothing, and are named by a second chain.
    let again = home.run(&["backfill", "--layout", "ml_audit", "--json", "in.ndjson"]).ok().json();
    assert_eq!(again["datasets"]["ml_audit"]["conflicts"].as_u64().unwrap_or(0), 0, "{again}");

    // A replacement is a version in front of the one that stays, and is found.
    assert_eq!(minio.request("PUT", &path(5), "", &[], b"{}").status, 200);
    assert_eq!(count(&verify(&home, &[], 1), "modified"), 1);
    let first = minio.request("GET", &path(5), &query, &[], b"");
    assert_eq!((first.status, first.text()), (200, bytes));

    // A name that no client of ours can spell stops a verification, but never as if the store were away.
    let odd = format!("/{BUCKET}/evidence/ml_audit/_integrity/a%0Ab");
    assert_eq!(minio.request("PUT", &odd, "", &[], b"{}").status, 200);
    home.run(&["audit", "verify"]).exits(1).says(&["has a name that no writer gives"]);
}

#[test]
fn check_says_whether_anything_is_enforced() {
    let minio = Minio::start();
    minio.bucket(BUCKET);
    let home = apart(&minio);
    assert!(
        said(&home).starts_with("NOT immutable: a probe could be replaced and deleted"),
        "{}",
        said(&home)
    );

    let versions = b"<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status>\
                     </VersioningConfiguration>";
    assert_eq!(minio.request("PUT", &format!("/{BUCKET}"), "versioning=", &[], versions).status, 200);
    let versioned = said(&home);
    assert!(
        versioned.starts_with("NOT immutable: the bucket has versions, but one could be deleted"),
        "{versioned}"
    );

    minio.locked_bucket("locked", 1);
    configure(&home, "url = \"s3://locked\"", BROKER);
    let locked = said(&home);
    assert!(locked.starts_with("immutable: a version is kept under COMPLIANCE until 20"), "{locked}");

    // A bucket that could lock, and has no rule.
    let lock = [("x-amz-bucket-object-lock-enabled", "true")];
    assert_eq!(minio.request("PUT", "/ruleless", "", &lock, b"").status, 200);
    configure(&home, "url = \"s3://ruleless\"", BROKER);
    let ruleless = said(&home);
    assert!(ruleless.starts_with("NOT immutable: the bucket has versions"), "{ruleless}");

    configure(&home, "url = \"./folder\"", BROKER);
    let folder = said(&home);
    assert!(folder.starts_with("NOT immutable: a probe could be replaced and deleted"), "{folder}");
    assert!(evidence::files(&home.path("folder")).is_empty(), "the probe is gone");

    // Registrations cannot be taken back there.
    configure(&home, "", &format!("[data_lake]\nurl = \"s3://locked\"\n{BROKER}"));
    home.run(&["check", "--connect"]).exits(3).prints(&["does not let objects be deleted", "archive.url"]);
}
