//! Which RabbitMQ the tests run against, and how its programs are started: this machine's own, or one in a chroot.
//!
//! `LAKEHEAD_TEST_BROKER` chooses: unset or `3.10` for the one on the PATH, `4.0`, `4.3` or the path of a chroot made by
//! `scripts/broker-chroot`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{cache, which};

/// Where a RabbitMQ is installed.
#[derive(Debug, Clone)]
pub enum Install {
    /// On this machine: the folder of Debian's own start scripts, which do not change the user.
    Host(PathBuf),
    /// In a chroot.
    Chroot(PathBuf),
}

impl Install {
    /// The one that `LAKEHEAD_TEST_BROKER` chooses.
    #[track_caller]
    pub fn from_env() -> Install {
        let chosen = env::var("LAKEHEAD_TEST_BROKER").unwrap_or_default();
        let root = match chosen.as_str() {
            "" | "3.10" => return Install::on_path(),
            "4.0" => cache().join("chroots/trixie"),
            "4.3" => cache().join("chroots/sid"),
            path => PathBuf::from(path),
        };
        assert!(
            root.join("usr/lib/rabbitmq/bin/rabbitmq-server").symlink_metadata().is_ok(),
            "LAKEHEAD_TEST_BROKER={chosen}: no RabbitMQ in {}: run scripts/setup brokers",
            root.display()
        );
        Install::Chroot(root)
    }

    #[track_caller]
    fn on_path() -> Install {
        let debian = PathBuf::from("/usr/lib/rabbitmq/bin");
        if debian.join("rabbitmq-server").exists() {
            return Install::Host(debian);
        }
        let server =
            which("rabbitmq-server").expect("rabbitmq-server is not on the PATH: run scripts/setup tests");
        Install::Host(server.parent().expect("a program is in a folder").to_path_buf())
    }

    /// A folder that this installation can write to, removed on drop.
    #[track_caller]
    pub fn folder(&self) -> TempDir {
        let base = match self {
            Install::Host(_) => env::temp_dir(),
            Install::Chroot(root) => root.join("tmp"),
        };
        let dir = tempfile::Builder::new().prefix("lakehead-broker-").tempdir_in(&base);
        dir.unwrap_or_else(|e| panic!("cannot create a folder in {}: {e}", base.display()))
    }

    /// How the installation itself sees `path`.
    pub fn inside(&self, path: &Path) -> String {
        match self {
            Install::Host(_) => path.display().to_string(),
            Install::Chroot(root) => {
                let inner = path.strip_prefix(root).expect("the path is in the chroot");
                format!("/{}", inner.display())
            }
        }
    }

    /// The command that runs `rabbitmq-server`, `rabbitmqctl` or `epmd` of this installation.
    pub fn command(&self, program: &str) -> Command {
        match self {
            Install::Host(_) if program == "epmd" => Command::new("epmd"),
            Install::Host(scripts) => Command::new(scripts.join(program)),
            Install::Chroot(root) => {
                let inner = if program == "epmd" {
                    "epmd".to_owned()
                } else {
                    format!("/usr/lib/rabbitmq/bin/{program}")
                };
                // A mount namespace of its own, so that /proc goes when the process does.
                let script = r#"mount -t proc proc "$1/proc"; exec chroot "$@""#;
                let mut command = Command::new("unshare");
                command.args(["--mount", "/bin/sh", "-c", script, "chroot"]).arg(root).arg(inner);
                command
            }
        }
    }
}
