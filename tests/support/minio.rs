//! MinIO, an S3 store, with its data in a temporary folder. Where MinIO could not be built, SeaweedFS takes its place.

use std::fs;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Process, Response, cache, free_port, http, which};

const USER: &str = "lakehead";
const PASSWORD: &str = "lakehead-secret";
const REGION: &str = "us-east-1";
const START: Duration = Duration::from_secs(60);

/// A running MinIO, gone when dropped. It keeps its data over kills and restarts.
#[derive(Debug)]
pub struct Minio {
    process: Mutex<Option<Process>>,
    port: u16,
    dir: TempDir,
}

impl Minio {
    /// Starts one without buckets.
    #[track_caller]
    pub fn start() -> Minio {
        let mut why = String::new();
        for _ in 0..3 {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let minio = Minio { process: Mutex::new(None), port: free_port(), dir };
            match minio.spawn() {
                Ok(()) => return minio,
                Err(e) => why = e,
            }
        }
        panic!("{why}")
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:<port>`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The access key id.
    pub fn access_key(&self) -> &'static str {
        USER
    }

    /// The secret access key.
    pub fn secret_key(&self) -> &'static str {
        PASSWORD
    }

    /// The variables by which S3 programs find this store.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", USER.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", PASSWORD.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// Creates a bucket.
    #[track_caller]
    pub fn bucket(&self, name: &str) {
        let answer = self.request("PUT", &format!("/{name}"), "", &[], b"");
        assert_eq!(answer.status, 200, "cannot create bucket {name}: {}", answer.text());
    }

    /// Creates a bucket with Object Lock whose objects nobody can delete or shorten for `days` (compliance mode).
    #[track_caller]
    pub fn locked_bucket(&self, name: &str, days: u32) {
        let lock = [("x-amz-bucket-object-lock-enabled", "true")];
        let answer = self.request("PUT", &format!("/{name}"), "", &lock, b"");
        assert_eq!(answer.status, 200, "cannot create bucket {name} with Object Lock: {}", answer.text());
        let rule = format!(
            "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
             <Days>{days}</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
        );
        let answer = self.request("PUT", &format!("/{name}"), "object-lock=", &[], rule.as_bytes());
        assert_eq!(answer.status, 200, "cannot set the retention of bucket {name}: {}", answer.text());
    }

    /// A client for one bucket, fit for Object Lock.
    #[track_caller]
    pub fn store(&self, bucket: &str) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_region(REGION)
            .with_access_key_id(USER)
            .with_secret_access_key(PASSWORD)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_bucket_name(bucket)
            .build()
            .expect("a client for MinIO")
    }

    /// One signed request (Signature Version 4). `path` and `query` as they go on the wire, `query` sorted by key and
    /// each key with `=`.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let (address, now) = (self.address(), chrono::Utc::now());
        let (day, time) = (now.format("%Y%m%d").to_string(), now.format("%Y%m%dT%H%M%SZ").to_string());
        let body_hash = http::hex(&Sha256::digest(body));
        let mut signed = headers.to_vec();
        signed.extend([("host", &*address), ("x-amz-content-sha256", &*body_hash), ("x-amz-date", &*time)]);
        signed.sort_unstable();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body_hash}");
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", http::hex(&Sha256::digest(canonical)));
        let mut key = http::hmac_sha256(format!("AWS4{PASSWORD}").as_bytes(), day.as_bytes());
        for part in [REGION, "s3", "aws4_request"] {
            key = http::hmac_sha256(&key, part.as_bytes());
        }
        let signature = http::hex(&http::hmac_sha256(&key, to_sign.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={USER}/{scope}, SignedHeaders={names}, Signature={signature}"
        );
        // The request itself adds `Host`.
        let mut sent: Vec<(&str, &str)> = signed.into_iter().filter(|(name, _)| *name != "host").collect();
        sent.push(("Authorization", &authorization));
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        // A refusal may come before the body is read, and its answer be lost in the reset that follows.
        let is_reset = |answer: &std::io::Result<Response>| {
            answer.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        };
        let mut answer = http::request(method, &address, &target, &sent, body);
        for _ in 0..5 {
            if !is_reset(&answer) {
                break;
            }
            answer = http::request(method, &address, &target, &sent, body);
        }
        answer.unwrap_or_else(|e| panic!("{method} {target}: {e}"))
    }

    /// Kills it with SIGKILL.
    #[track_caller]
    pub fn kill(&self) {
        self.process().take().expect("the store runs").kill();
    }

    /// Starts it again with its data, after [`Minio::kill`].
    #[track_caller]
    pub fn restart(&self) {
        if let Err(why) = self.spawn() {
            panic!("{why}");
        }
    }

    /// Freezes it: connections stay open, nothing answers.
    #[track_caller]
    pub fn pause(&self) {
        self.process().as_ref().expect("the store runs").signal("STOP");
    }

    /// Goes on after [`Minio::pause`].
    #[track_caller]
    pub fn resume(&self) {
        self.process().as_ref().expect("the store runs").signal("CONT");
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn spawn(&self) -> Result<(), String> {
        let mut process = Process::spawn("s3", self.command(), self.dir.path());
        let start = Instant::now();
        loop {
            // A signed listing of all buckets shows that it serves, not only that it listens.
            let listens = http::request("GET", &self.address(), "/", &[], b"").is_ok();
            if listens && self.request("GET", "/", "", &[], b"").status == 200 {
                *self.process() = Some(process);
                return Ok(());
            }
            if process.exited().is_some() || start.elapsed() > START {
                return Err(format!("the S3 store does not start; {}", process.log_tail()));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn command(&self) -> Command {
        let data = self.dir.path().join("data");
        let built = cache().join("bin/minio");
        if let Some(minio) = built.is_file().then_some(built).or_else(|| which("minio")) {
            let mut command = Command::new(minio);
            command.args(["server", "--quiet", "--address", &self.address()]).arg(data);
            command.env("MINIO_ROOT_USER", USER).env("MINIO_ROOT_PASSWORD", PASSWORD);
            command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("CI", "true");
            return command;
        }
        let weed = cache().join("venv/bin/weed");
        assert!(
            weed.is_file(),
            "neither MinIO nor SeaweedFS is in {}: run scripts/setup tests",
            cache().display()
        );
        let identities = format!(
            r#"{{"identities":[{{"name":"{USER}","credentials":[{{"accessKey":"{USER}","secretKey":"{PASSWORD}"}}],
               "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        let config = self.dir.path().join("s3.json");
        fs::write(&config, identities).expect("an own folder can be written");
        fs::create_dir_all(&data).expect("an own folder can be written");
        let mut command = Command::new(weed);
        command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
        command.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", config.display()));
        command.arg(format!("-s3.port={}", self.port)).args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        for port in ["master.port", "volume.port", "filer.port"] {
            command.arg(format!("-{port}={}", free_port()));
        }
        for port in ["master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc"] {
            command.arg(format!("-{port}={}", free_port()));
        }
        command
    }
}
