//! Azurite, the Azure Blob emulator: in memory, one account, the well-known key.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use tempfile::TempDir;

use super::{Process, cache, free_port, http};

const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const START: Duration = Duration::from_secs(60);

/// A running Azurite with its data in memory, gone when dropped.
#[derive(Debug)]
pub struct Azurite {
    process: Process,
    port: u16,
    dir: TempDir,
}

impl Azurite {
    /// Starts one.
    #[track_caller]
    pub fn start() -> Azurite {
        let script = cache().join("azurite/node_modules/azurite/dist/src/blob/main.js");
        assert!(script.exists(), "Azurite is not in {}: run scripts/setup tests", cache().display());
        for _ in 0..3 {
            let (port, dir) = (free_port(), tempfile::tempdir().expect("a temporary folder"));
            let mut command = Command::new("node");
            command.arg(&script).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
            command.args([
                "--inMemoryPersistence",
                "--skipApiVersionCheck",
                "--silent",
                "--disableTelemetry",
            ]);
            command.current_dir(dir.path());
            let mut azurite = Azurite { process: Process::spawn("azurite", command, dir.path()), port, dir };
            let start = Instant::now();
            while azurite.process.exited().is_none() {
                if http::request("GET", &azurite.address(), "/", &[], b"").is_ok() {
                    return azurite;
                }
                let waited = start.elapsed();
                assert!(waited < START, "Azurite is not up after {waited:?}; {}", azurite.process.log_tail());
                thread::sleep(Duration::from_millis(50));
            }
            eprintln!("trying again: {}", azurite.process.log_tail());
        }
        panic!("Azurite does not start")
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The connection string, as deployments have it.
    pub fn connection_string(&self) -> String {
        self.connection_string_through(self.port)
    }

    /// The connection string with another port, that of a proxy before Azurite.
    pub fn connection_string_through(&self, port: u16) -> String {
        format!(
            "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};\
             BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )
    }

    /// The variable by which Azure programs find this store.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("AZURE_STORAGE_CONNECTION_STRING", self.connection_string())]
    }

    /// The account's name.
    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// The account's key.
    pub fn key(&self) -> &'static str {
        KEY
    }

    /// Creates a container.
    #[track_caller]
    pub fn container(&self, name: &str) {
        let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let version = "2021-12-02";
        let headers = format!("x-ms-date:{date}\nx-ms-version:{version}");
        let resource = format!("/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container");
        // Shared Key: the verb, eleven empty standard headers, then ours and the resource.
        let to_sign = format!("PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}\n{resource}");
        let key = BASE64_STANDARD.decode(KEY).expect("the well-known key is base64");
        let signature = BASE64_STANDARD.encode(http::hmac_sha256(&key, to_sign.as_bytes()));
        let authorization = format!("SharedKey {ACCOUNT}:{signature}");
        let headers = [("x-ms-date", &*date), ("x-ms-version", version), ("Authorization", &*authorization)];
        let target = format!("/{ACCOUNT}/{name}?restype=container");
        let answer = http::request("PUT", &self.address(), &target, &headers, b"");
        let answer = answer.unwrap_or_else(|e| panic!("cannot create container {name}: {e}"));
        assert_eq!(answer.status, 201, "cannot create container {name}: {}", answer.text());
    }

    /// A client for one container.
    #[track_caller]
    pub fn store(&self, container: &str) -> MicrosoftAzure {
        MicrosoftAzureBuilder::new()
            .with_account(ACCOUNT)
            .with_access_key(KEY)
            .with_endpoint(format!("http://{}/{ACCOUNT}", self.address()))
            .with_allow_http(true)
            .with_container_name(container)
            .build()
            .expect("a client for Azurite")
    }

    /// Freezes it: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    /// Goes on after [`Azurite::pause`].
    pub fn resume(&self) {
        self.process.signal("CONT");
    }
}
