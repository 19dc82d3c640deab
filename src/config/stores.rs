//! `[data_lake]` and `[archive]`: where stores are and how they are reached, key by key.

use super::fields::Fields;
use super::sections::{HOUR, MS, SECOND};
use super::{Archive, DataLake};
use crate::store::{Auth, Location};

/// Blobs under way at once in a store that is not a folder of this machine.
const REMOTE: usize = 64;

pub(super) fn data_lake(root: &mut Fields<'_>) -> DataLake {
    let mut fields = root.section("data_lake");
    let default = DataLake::default();
    let location = location(&mut fields);
    let audit_path_prefix = audit_path_prefix(&mut fields).unwrap_or(default.audit_path_prefix);
    fields.finish();
    DataLake { location: location.unwrap_or(default.location), audit_path_prefix }
}

fn audit_path_prefix(fields: &mut Fields<'_>) -> Option<String> {
    let prefix = fields.text("audit_path_prefix")?;
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let part =
        |p: &str| !p.is_empty() && p.chars().all(usable) && !matches!(p, "." | "..") && !p.starts_with('_');
    if prefix.split('/').all(part) {
        return Some(prefix);
    }
    let what = format!("expected a folder below the root, found {prefix:?}");
    fields.problem(
        "audit_path_prefix",
        what,
        "letters, digits, `.`, `_`, `-`; no `/` at its ends, no `_` first",
    );
    None
}

/// Where a store is; `None` if the section names none.
fn location(fields: &mut Fields<'_>) -> Option<Location> {
    let (url, container) = (fields.text("url"), fields.text("container"));
    let auth = [
        ("managed_identity", Auth::ManagedIdentity),
        ("workload_identity", Auth::WorkloadIdentity),
        ("sas", Auth::Sas),
        ("key", Auth::Key),
    ];
    let mut location = Location {
        url: String::new(),
        connection_string: fields.secret("connection_string"),
        auth: fields.choice("auth", &auth),
        account: fields.text("account"),
        access_key: fields.secret("access_key"),
        sas_token: fields.secret("sas_token"),
        client_id: fields.text("client_id"),
        endpoint: fields.text("endpoint"),
        region: fields.text("region"),
        access_key_id: fields.text("access_key_id"),
        secret_access_key: fields.secret("secret_access_key"),
    };
    location.url = match (url, container) {
        (Some(url), container) => {
            store_url(fields, &url, container.as_deref());
            url
        }
        (None, Some(container)) => format!("az://{container}"),
        (None, None) if location.connection_string.is_some() => {
            let hint = "container = \"lake\", or url = \"az://lake/prefix\"";
            fields.problem("connection_string", "is set, but neither `container` nor `url`", hint);
            return None;
        }
        (None, None) => return None,
    };
    Some(location)
}

fn store_url(fields: &mut Fields<'_>, url: &str, container: Option<&str>) {
    const SCHEMES: [&str; 8] = ["az", "azure", "abfs", "abfss", "s3", "s3a", "file", "memory"];
    if url.contains('?') {
        let hint = "credentials go into keys of their own: sas_token, access_key, secret_access_key";
        return fields.problem("url", "has parameters behind a `?`", hint);
    }
    let Some((scheme, rest)) = url.split_once("://") else { return };
    if !SCHEMES.contains(&scheme) {
        let hint = "one of az://container/prefix, s3://bucket/prefix, file:///path, or a path";
        return fields.problem("url", format!("unknown scheme `{scheme}://`"), hint);
    }
    let first = rest.split(['/', '@']).next().unwrap_or_default();
    if first.is_empty() && !matches!(scheme, "file" | "memory") {
        return fields.problem("url", "names no container or bucket", format!("{scheme}://name/prefix"));
    }
    if let Some(container) = container.filter(|c| *c != first) {
        let what = format!("`{container}` is not the container of the url, `{first}`");
        fields.problem("container", what, "leave `container` out: the url says it");
    }
}

/// The kind of a store: credentials of one kind fit another store of that kind.
fn kind_of(url: &str) -> &str {
    match url.split_once("://").map_or("file", |(scheme, _)| scheme) {
        "azure" | "abfs" | "abfss" => "az",
        "s3a" => "s3",
        other => other,
    }
}

/// A location, with the credentials of `other` where it has none of its own and is of the same kind.
pub(crate) fn with_credentials(own: Location, other: &Location) -> Location {
    let bare = own.connection_string.is_none()
        && own.auth.is_none()
        && own.account.is_none()
        && own.access_key.is_none()
        && own.sas_token.is_none()
        && own.access_key_id.is_none()
        && own.endpoint.is_none();
    if bare && kind_of(&own.url) == kind_of(&other.url) {
        let region = own.region.or_else(|| other.region.clone());
        return Location { url: own.url, region, ..other.clone() };
    }
    own
}

pub(super) fn archive(root: &mut Fields<'_>, data_lake: &Location) -> Archive {
    let mut fields = root.section("archive");
    let mut default = Archive::default();
    let location = location(&mut fields).map(|own| with_credentials(own, data_lake));
    let anchor_url = fields.text("anchor_url");
    if let Some(url) = &anchor_url {
        store_url(&mut fields, url, None);
    }
    let mut anchor_fields = fields.section("anchor");
    if anchor_url.is_some() && anchor_fields.has("url") {
        anchor_fields.problem("url", "`archive.anchor_url` is set too", "keep one of them");
    }
    let anchor = self::location(&mut anchor_fields);
    anchor_fields.finish();
    let short = anchor_url.map(|url| Location { url, ..Location::default() });
    let near = location.as_ref().unwrap_or(data_lake);
    let anchor = anchor.or(short).map(|own| with_credentials(own, near));
    if near.folder().is_none() {
        default.concurrency = REMOTE;
    }
    let archive = Archive {
        signing_key_file: fields.path("signing_key_file"),
        trust_file: fields.path("trust_file"),
        digest_age: fields.duration("digest_age", 100 * MS..=HOUR).unwrap_or(default.digest_age),
        heartbeat: fields.duration("heartbeat", SECOND..=24 * HOUR).unwrap_or(default.heartbeat),
        digest_entries: fields.number("digest_entries", 1..=100_000).unwrap_or(default.digest_entries),
        concurrency: fields.number("concurrency", 1..=1_024).map_or(default.concurrency, |n| n as usize),
        location,
        anchor,
    };
    fields.finish();
    archive
}
