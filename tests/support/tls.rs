//! A certificate authority of the test's own, with a server's and a client's certificate, made with the openssl program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// PEM files, valid for a week.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// For `localhost` and 127.0.0.1.
    pub server_cert: PathBuf,
    /// PKCS#8.
    pub server_key: PathBuf,
    /// For client `lakehead`.
    pub client_cert: PathBuf,
    /// PKCS#8.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes all of them in `dir`.
    #[track_caller]
    pub fn make(dir: &Path) -> Certificates {
        let path = |name: &str| dir.join(name);
        let made = Certificates {
            ca: path("ca.pem"),
            server_cert: path("server.pem"),
            server_key: path("server.key"),
            client_cert: path("client.pem"),
            client_key: path("client.key"),
        };
        let authority = (made.ca.as_path(), path("ca.key"));
        let ca_extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign";
        let server_extensions = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n\
            subjectAltName=DNS:localhost,IP:127.0.0.1";
        let client_extensions = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n\
            subjectAltName=DNS:lakehead";
        sign(dir, "Lakehead test authority", ca_extensions, (&made.ca, &authority.1), None);
        let by = Some((authority.0, authority.1.as_path()));
        sign(dir, "localhost", server_extensions, (&made.server_cert, &made.server_key), by);
        sign(dir, "lakehead", client_extensions, (&made.client_cert, &made.client_key), by);
        made
    }
}

#[track_caller]
fn sign(dir: &Path, name: &str, extensions: &str, out: (&Path, &Path), authority: Option<(&Path, &Path)>) {
    let config = dir.join("openssl.cnf");
    let text = format!(
        "[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=ext\n[dn]\nCN={name}\n[ext]\n{extensions}\n"
    );
    fs::write(&config, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", config.display()));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "7",
    ]);
    openssl.arg("-config").arg(&config).arg("-out").arg(out.0).arg("-keyout").arg(out.1);
    if let Some((cert, key)) = authority {
        openssl.arg("-CA").arg(cert).arg("-CAkey").arg(key);
    }
    let done = openssl.output().expect("openssl is not on the PATH: run scripts/setup tests");
    assert!(done.status.success(), "openssl failed: {}", String::from_utf8_lossy(&done.stderr));
}
