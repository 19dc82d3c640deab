//! A private RabbitMQ: one node (or a small cluster) with its own folder, ports, cookie and epmd.
//!
//! `LAKEHEAD_TEST_BROKER` chooses the version, see [`Install`].

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::install::Install;
use super::{Certificates, Process, Response, free_port, http};

const COOKIE: &str = "lakehead-test";
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);

/// What a broker has beyond a plain AMQP listener.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A TLS listener: [`Broker::tls_url`], [`Broker::certificates`].
    pub tls: bool,
    /// The management plugin: [`Broker::api`].
    pub management: bool,
    /// Further lines of `rabbitmq.conf`, such as `consumer_timeout = 10000`.
    pub conf: String,
}

/// A running broker, gone when dropped. It stays the same broker (data, ports, name) over stops, kills and restarts.
#[derive(Debug)]
pub struct Broker {
    // Fields drop in this order: the processes before the folder that they write to.
    node: Mutex<Option<Process>>,
    epmd: Arc<Epmd>,
    install: Install,
    name: String,
    ports: Ports,
    certificates: Option<Certificates>,
    dir: TempDir,
}

#[derive(Debug)]
struct Epmd {
    port: u16,
    process: Process,
    dir: TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    distribution: u16,
    tls: Option<u16>,
    management: Option<u16>,
}

impl Broker {
    /// A broker with a plain listener only.
    #[track_caller]
    pub fn start() -> Broker {
        Broker::with(&Options::default())
    }

    /// A broker with `options`.
    #[track_caller]
    pub fn with(options: &Options) -> Broker {
        let install = Install::from_env();
        retry(|| {
            let epmd = Arc::new(Epmd::start(&install)?);
            Broker::launch(&install, &epmd, options, None)
        })
    }

    /// A cluster of `size` nodes, the first one started first.
    #[track_caller]
    pub fn cluster(size: usize, options: &Options) -> Vec<Broker> {
        let install = Install::from_env();
        let mut nodes: Vec<Broker> = Vec::new();
        let epmd = Arc::new(retry(|| Epmd::start(&install)));
        for _ in 0..size {
            let seed = nodes.first().map(|node| node.name.clone());
            nodes.push(retry(|| Broker::launch(&install, &epmd, options, seed.as_deref())));
        }
        nodes
    }

    /// The broker that all tests of this process may share; each uses queues and exchanges of its own, and nobody stops
    /// it. It is never dropped: the watchdog ends it with the process.
    #[track_caller]
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Broker::start)
    }

    /// `amqp://guest:guest@127.0.0.1:<port>/%2f`
    pub fn url(&self) -> String {
        self.url_through(self.ports.amqp)
    }

    /// The URL with another port, that of a proxy before this broker.
    pub fn url_through(&self, port: u16) -> String {
        format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
    }

    /// `127.0.0.1:<port>` of the plain listener.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.amqp)
    }

    /// `amqps://guest:guest@127.0.0.1:<port>/%2f`; needs [`Options::tls`].
    #[track_caller]
    pub fn tls_url(&self) -> String {
        let port = self.ports.tls.expect("the broker was started with Options { tls: true, .. }");
        format!("amqps://guest:guest@127.0.0.1:{port}/%2f")
    }

    /// The certificates of the TLS listener; needs [`Options::tls`].
    #[track_caller]
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("the broker was started with Options { tls: true, .. }")
    }

    /// The node's name, `lh<port>@localhost`.
    pub fn node_name(&self) -> &str {
        &self.name
    }

    /// The server's version, as its connection properties have it.
    #[track_caller]
    pub fn version(&self) -> String {
        handshake(self.ports.amqp).expect("the broker answers")
    }

    /// Stops it as an operator would: SIGTERM, data written, clients told.
    #[track_caller]
    pub fn stop(&self) {
        let mut node = self.node();
        let process = node.as_mut().expect("the broker runs");
        assert!(process.stop(STOP), "the broker did not stop within {STOP:?}; {}", process.log_tail());
        *node = None;
    }

    /// Kills it with SIGKILL.
    #[track_caller]
    pub fn kill(&self) {
        let mut node = self.node();
        node.as_mut().expect("the broker runs").kill();
        *node = None;
    }

    /// Starts it again with its data, after [`Broker::stop`] or [`Broker::kill`]; of a running one, stops it first.
    #[track_caller]
    pub fn restart(&self) {
        if self.node().is_some() {
            self.stop();
        }
        retry(|| self.spawn());
    }

    /// Freezes it: connections stay open, nothing answers.
    #[track_caller]
    pub fn pause(&self) {
        self.node().as_ref().expect("the broker runs").signal("STOP");
    }

    /// Goes on after [`Broker::pause`].
    #[track_caller]
    pub fn resume(&self) {
        self.node().as_ref().expect("the broker runs").signal("CONT");
    }

    /// Runs `rabbitmqctl` against this node (about two seconds each); its stdout.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        let out = self.try_ctl(args);
        assert!(
            out.status.success(),
            "rabbitmqctl {args:?} ended with {}: {}{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs `rabbitmqctl` against this node, whatever comes of it.
    pub fn try_ctl(&self, args: &[&str]) -> Output {
        let mut ctl = self.install.command("rabbitmqctl");
        self.environment(&mut ctl);
        ctl.args(["--quiet", "--node", &self.name]).args(args).output().expect("rabbitmqctl starts")
    }

    /// One request to the management API, as guest; needs [`Options::management`]. `target` begins with `/api/`.
    #[track_caller]
    pub fn api(&self, method: &str, target: &str, body: &str) -> Response {
        let headers = [("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q="), ("Content-Type", "application/json")];
        let answer = http::request(method, &self.management(), target, &headers, body.as_bytes());
        answer.unwrap_or_else(|e| panic!("{method} {target}: {e}"))
    }

    /// `127.0.0.1:<port>` of the management API; needs [`Options::management`].
    #[track_caller]
    pub fn management(&self) -> String {
        let port =
            self.ports.management.expect("the broker was started with Options { management: true, .. }");
        format!("127.0.0.1:{port}")
    }

    fn node(&self) -> MutexGuard<'_, Option<Process>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One try at a new node, joined to the cluster of `seed`.
    fn launch(
        install: &Install,
        epmd: &Arc<Epmd>,
        options: &Options,
        seed: Option<&str>,
    ) -> Result<Broker, String> {
        let ports = Ports {
            amqp: free_port(),
            distribution: free_port(),
            tls: options.tls.then(free_port),
            management: options.management.then(free_port),
        };
        let dir = install.folder();
        let certificates = options.tls.then(|| Certificates::make(dir.path()));
        let broker = Broker {
            node: Mutex::new(None),
            epmd: Arc::clone(epmd),
            install: install.clone(),
            name: format!("lh{}@localhost", ports.amqp),
            ports,
            certificates,
            dir,
        };
        broker.configure(options, seed);
        broker.spawn()?;
        Ok(broker)
    }

    fn configure(&self, options: &Options, seed: Option<&str>) {
        let mut conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nlog.console = true\nlog.console.level = info\nlog.file = false\n\
             disk_free_limit.absolute = 50MB\n",
            self.ports.amqp
        );
        if let (Some(port), Some(certificates)) = (self.ports.tls, &self.certificates) {
            let inside = |file: &Path| self.install.inside(file);
            conf.push_str(&format!(
                "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\nssl_options.verify = verify_peer\n\
                 ssl_options.fail_if_no_peer_cert = false\n",
                inside(&certificates.ca),
                inside(&certificates.server_cert),
                inside(&certificates.server_key)
            ));
        }
        if let Some(port) = self.ports.management {
            conf.push_str(&format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n"));
        }
        if let Some(seed) = seed {
            conf.push_str(&format!(
                "cluster_formation.peer_discovery_backend = classic_config\n\
                 cluster_formation.classic_config.nodes.1 = {seed}\n\
                 cluster_formation.classic_config.nodes.2 = {}\n",
                self.name
            ));
        }
        conf.push_str(&options.conf);
        conf.push('\n');
        let plugins = if options.management { "[rabbitmq_management]." } else { "[]." };
        self.write("rabbitmq.conf", &conf, 0o644);
        self.write("enabled_plugins", plugins, 0o644);
        self.write("rabbitmq-env.conf", "", 0o644);
        self.write(".erlang.cookie", COOKIE, 0o400);
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let file = self.dir.path().join(name);
        fs::write(&file, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))
            .expect("the mode of an own file can be set");
    }

    /// Starts the node's process and waits until it accepts connections.
    fn spawn(&self) -> Result<(), String> {
        let mut command = self.install.command("rabbitmq-server");
        self.environment(&mut command);
        let mut process = Process::spawn("rabbitmq", command, self.dir.path());
        let start = Instant::now();
        while !self.answers() {
            if let Some(status) = process.exited() {
                return Err(format!("rabbitmq-server ended with {status}; {}", process.log_tail()));
            }
            if start.elapsed() > START {
                return Err(format!("rabbitmq-server is not up after {START:?}; {}", process.log_tail()));
            }
            thread::sleep(Duration::from_millis(100));
        }
        *self.node() = Some(process);
        Ok(())
    }

    /// Whether every listener is up; the plain one comes first.
    fn answers(&self) -> bool {
        let listens = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
        handshake(self.ports.amqp).is_some()
            && self.ports.tls.is_none_or(listens)
            && self.ports.management.is_none_or(listens)
    }

    fn environment(&self, command: &mut Command) {
        let home = self.install.inside(self.dir.path());
        let file = |name: &str| format!("{home}/{name}");
        common_environment(command, self.epmd.port, &home);
        command
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", file("data"))
            .env("RABBITMQ_LOG_BASE", file("log"))
            .env("RABBITMQ_PID_FILE", file("pid"))
            .env("RABBITMQ_CTL_DIST_PORT_MIN", "40000")
            .env("RABBITMQ_CTL_DIST_PORT_MAX", "49999")
            // Makes the start script become the Erlang machine, so that signals reach it.
            .env("RUNNING_UNDER_SYSTEMD", "true");
    }
}

impl Epmd {
    fn start(install: &Install) -> Result<Epmd, String> {
        let (port, dir) = (free_port(), install.folder());
        let mut command = install.command("epmd");
        common_environment(&mut command, port, &install.inside(dir.path()));
        command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
        let mut process = Process::spawn("epmd", command, dir.path());
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if process.exited().is_some() || start.elapsed() > START {
                return Err(format!("epmd does not start; {}", process.log_tail()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Epmd { port, process, dir })
    }
}

fn common_environment(command: &mut Command, epmd_port: u16, home: &str) {
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env("HOME", home)
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
}

/// Three tries, for ports that another process took between being found free and being used.
#[track_caller]
fn retry<T>(mut start: impl FnMut() -> Result<T, String>) -> T {
    let mut tries = 1;
    loop {
        match start() {
            Ok(started) => return started,
            Err(_) if tries < 3 => tries += 1,
            Err(why) => panic!("{why}"),
        }
    }
}

/// The version in the server properties with which a broker greets, or `None` if none greets.
fn handshake(port: u16) -> Option<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket.write_all(b"AMQP\x00\x00\x09\x01").ok()?;
    let mut header = [0; 7];
    socket.read_exact(&mut header).ok()?;
    let size = u32::from_be_bytes(header[3..7].try_into().ok()?);
    let mut frame = vec![0; usize::try_from(size).ok()?];
    socket.read_exact(&mut frame).ok()?;
    let key = b"\x07versionS";
    let at = frame.windows(key.len()).position(|w| w == key)? + key.len();
    let length = u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?);
    let text = frame.get(at + 4..at + 4 + usize::try_from(length).ok()?)?;
    String::from_utf8(text.to_vec()).ok()
}
