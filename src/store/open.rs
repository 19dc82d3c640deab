//! Opening a store by its URL: which kind it is, and where its credentials come from.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::folder::Folder;
use super::{Store, Versions};
use crate::config::Secret;
use crate::error::{Error, Result};

/// How to prove to Azure who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// The account key.
    Key,
    /// A shared access signature.
    Sas,
    /// The machine's managed identity.
    ManagedIdentity,
    /// A Kubernetes workload identity.
    WorkloadIdentity,
}

/// Where a store is, and with which credentials.
#[derive(Debug, Clone, Default)]
pub struct Location {
    /// `az://container/prefix`, `s3://bucket/prefix`, `file:///path`, a path, or `memory://`.
    pub url: String,
    /// Azure: an account's connection string.
    pub connection_string: Option<Secret>,
    /// Azure: how to authenticate; without it, what the other settings and the environment offer.
    pub auth: Option<Auth>,
    /// Azure: the account's name.
    pub account: Option<String>,
    /// Azure: the account's key.
    pub access_key: Option<Secret>,
    /// Azure: a shared access signature.
    pub sas_token: Option<Secret>,
    /// Azure: client id of a user-assigned identity.
    pub client_id: Option<String>,
    /// S3 or Azure: another endpoint than the cloud's own.
    pub endpoint: Option<String>,
    /// S3: the region.
    pub region: Option<String>,
    /// S3: the access key id.
    pub access_key_id: Option<String>,
    /// S3: the secret access key.
    pub secret_access_key: Option<Secret>,
}

impl Location {
    /// The kind of store, and where in it.
    fn parts(&self) -> (&str, &str) {
        self.url.split_once("://").unwrap_or(("path", &self.url))
    }

    /// The folder of this machine that it names, if it names one.
    pub fn folder(&self) -> Option<&std::path::Path> {
        match self.parts() {
            ("path" | "file", path) => Some(std::path::Path::new(path)),
            _ => None,
        }
    }
}

/// Opens a store. Nothing is sent yet; a local folder is created.
///
/// # Errors
/// A URL or credentials that cannot be understood; a local folder that cannot be created.
pub fn open(location: &Location, deadline: Duration) -> Result<Store> {
    let url = location.url.as_str();
    let (scheme, rest) = location.parts();
    let (mut versions, mut folder) = (None, None);
    let (inner, root): (Arc<dyn ObjectStore>, Path) = match scheme {
        "path" | "file" => {
            folder = Some(rest);
            (local(rest)?, Path::default())
        }
        "memory" => (Arc::new(object_store::memory::InMemory::new()), prefix(rest)?),
        "s3" | "s3a" => {
            let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
            let (s3, options) = s3(location, bucket, deadline)?;
            versions = Some(Versions::new(s3.clone(), &options)?);
            (Arc::new(s3), prefix(folder)?)
        }
        "az" | "azure" | "abfs" | "abfss" => {
            let (container, folder) = rest.split_once('/').unwrap_or((rest, ""));
            let container = container.split('@').next().unwrap_or(container);
            (azure(location, container, deadline)?, prefix(folder)?)
        }
        other => {
            return Err(Error::config(format!("data_lake.url: {url}: unknown scheme `{other}://`"))
                .hint("one of az://container/prefix, s3://bucket/prefix, file:///path, or a path"));
        }
    };
    Ok(Store::new(inner, root, url, deadline).with_versions(versions).in_folder(folder))
}

fn prefix(folder: &str) -> Result<Path> {
    Path::parse(folder.trim_matches('/'))
        .map_err(|e| Error::config(format!("data_lake.url: {folder} is not a usable prefix")).source(e))
}

fn local(path: &str) -> Result<Arc<dyn ObjectStore>> {
    let folder = Folder::open(path).map_err(|e| {
        Error::unreachable(format!("cannot create the folder {path}"))
            .source(e)
            .hint("the url must name a folder that this user may write to")
    })?;
    Ok(Arc::new(folder))
}

fn retry(deadline: Duration) -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 2, retry_timeout: deadline }
}

/// Bytes of the largest object that is put on the slowest link.
const LARGEST: u64 = 256 << 20;

fn client(deadline: Duration, http: bool) -> ClientOptions {
    ClientOptions::new()
        // Each try has a deadline of its own, by its size: this is for the largest.
        .with_timeout(deadline + Duration::from_secs(LARGEST / super::SLOWEST))
        .with_connect_timeout(deadline.min(Duration::from_secs(5)))
        .with_allow_http(http)
}

fn s3(location: &Location, bucket: &str, deadline: Duration) -> Result<(AmazonS3, ClientOptions)> {
    let variable = |name: &str| std::env::var(name).ok();
    let endpoint = location.endpoint.clone().or_else(|| variable("AWS_ENDPOINT_URL"));
    let plain = endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
    let http = plain || variable("AWS_ALLOW_HTTP").is_some_and(|v| v == "true");
    let options = client(deadline, http);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry(deadline))
        .with_client_options(options.clone())
        // Buckets with Object Lock refuse puts without one.
        .with_checksum_algorithm(Checksum::SHA256);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &location.region {
        builder = builder.with_region(region);
    } else if variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")).is_none() {
        builder = builder.with_region("us-east-1");
    }
    if let Some(id) = &location.access_key_id {
        builder = builder.with_access_key_id(id);
    }
    if let Some(secret) = &location.secret_access_key {
        builder = builder.with_secret_access_key(secret.expose());
    }
    let store = builder.build().map_err(|e| unusable(&location.url, e))?;
    Ok((store, options))
}

fn azure(location: &Location, container: &str, deadline: Duration) -> Result<Arc<dyn ObjectStore>> {
    let from_env = std::env::var("AZURE_STORAGE_CONNECTION_STRING").ok().map(Secret::new);
    let explicit = location.account.is_some() || location.auth.is_some();
    let connection = location.connection_string.clone().or(from_env.filter(|_| !explicit));
    let mut settings = Settings::default();
    if let Some(text) = &connection {
        settings.read(text.expose())?;
    }
    let account = location.account.clone().or(settings.account);
    let key = location.access_key.clone().or(settings.key.map(Secret::new));
    let sas = location.sas_token.clone().or(settings.sas.map(Secret::new));
    let endpoint = location.endpoint.clone().or(settings.endpoint);
    let http = endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(retry(deadline))
        .with_client_options(client(deadline, http));
    if let Some(account) = account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(id) = &location.client_id {
        builder = builder.with_client_id(id);
    }
    let wants = |auth| location.auth.is_none_or(|a| a == auth);
    if let Some(key) = key.filter(|_| wants(Auth::Key)) {
        builder = builder.with_access_key(key.expose());
    } else if let Some(sas) = sas.filter(|_| wants(Auth::Sas)) {
        let pairs = sas_pairs(sas.expose());
        builder = builder.with_sas_authorization(pairs);
    }
    let store = builder.build().map_err(|e| unusable(&location.url, e))?;
    Ok(Arc::new(store))
}

fn unusable(url: &str, e: object_store::Error) -> Error {
    Error::config(format!("data_lake: cannot use {url}"))
        .source(e)
        .hint("set the credentials in [data_lake] or in the environment (AWS_…, AZURE_…)")
}

fn sas_pairs(token: &str) -> Vec<(String, String)> {
    let query = token.trim_start_matches('?');
    url::form_urlencoded::parse(query.as_bytes()).map(|(k, v)| (k.into_owned(), v.into_owned())).collect()
}

/// What an Azure connection string says.
#[derive(Debug, Default)]
struct Settings {
    account: Option<String>,
    key: Option<String>,
    sas: Option<String>,
    endpoint: Option<String>,
}

/// The well-known account of the Azure storage emulator, public by design.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

impl Settings {
    fn read(&mut self, text: &str) -> Result<()> {
        let (mut protocol, mut suffix) = ("https".to_owned(), "core.windows.net".to_owned());
        for part in text.split(';').filter(|p| !p.trim().is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(Error::config("data_lake.connection_string: expected `Key=value;Key=value`")
                    .hint("copy it as the portal shows it"));
            };
            let value = value.trim().to_owned();
            match key.trim() {
                "AccountName" => self.account = Some(value),
                "AccountKey" => self.key = Some(value),
                "SharedAccessSignature" => self.sas = Some(value),
                "BlobEndpoint" => self.endpoint = Some(value.trim_end_matches('/').to_owned()),
                "DefaultEndpointsProtocol" => protocol = value,
                "EndpointSuffix" => suffix = value,
                "UseDevelopmentStorage" if value.eq_ignore_ascii_case("true") => {
                    self.account = Some(EMULATOR_ACCOUNT.into());
                    self.key = Some(EMULATOR_KEY.into());
                    self.endpoint = Some(format!("http://127.0.0.1:10000/{EMULATOR_ACCOUNT}"));
                }
                _ => {}
            }
        }
        if self.endpoint.is_none() && suffix != "core.windows.net" {
            self.endpoint = self.account.as_ref().map(|a| format!("{protocol}://{a}.blob.{suffix}"));
        }
        if self.account.is_none() {
            // A SAS connection string names the account in its endpoint only.
            let host = self.endpoint.as_deref().and_then(|e| e.split("://").nth(1));
            self.account = host.and_then(|h| h.split('.').next()).map(str::to_owned);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_read() {
        let mut s = Settings::default();
        s.read("DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=a2V5PT0=;EndpointSuffix=core.windows.net")
            .expect("valid");
        assert_eq!(
            (s.account.as_deref(), s.key.as_deref(), s.endpoint),
            (Some("acme"), Some("a2V5PT0="), None)
        );
        let mut s = Settings::default();
        s.read("BlobEndpoint=https://acme.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x%3D")
            .expect("valid");
        assert_eq!((s.account.as_deref(), s.sas.as_deref()), (Some("acme"), Some("sv=1&sig=x%3D")));
        assert!(Settings::default().read("nonsense").is_err());
    }

    #[test]
    fn unknown_schemes_are_named() {
        let location = Location { url: "ftp://x".into(), ..Location::default() };
        let e = open(&location, Duration::from_secs(1)).expect_err("no such store");
        assert!(e.to_string().contains("ftp://"), "{e}");
    }
}
