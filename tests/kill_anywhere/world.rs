//! Broker, store, two replicas and what happens to them, from the first event to the count.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lakehead::source::amqp::{Depth, depth};
use lapin::{Connection, ConnectionProperties};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::count::{Counted, count};
use super::plan::{Fault, Plan, StoreKind, between};
use super::publisher::Publisher;
use super::replica::{BROKER, Replica, STORE};
use super::support::{Azurite, Broker, Home, Minio, TcpProxy};
use super::watch::Watch;

const QUEUES: [&str; 3] = ["logging_data_lake", "logging_audit", "logging_ml_audit"];
const TICK: Duration = Duration::from_millis(20);
/// Between two lines that say how far a run is.
const LINES: Duration = Duration::from_secs(15);
/// Between two looks at queues that may be empty.
const ASK: Duration = Duration::from_secs(1);
/// Longest that the queues may take to empty when nothing goes wrong any more.
const DRAIN: Duration = Duration::from_secs(1_800);
/// More than `limits.shutdown_deadline`.
const END: Duration = Duration::from_secs(60);
/// Bytes that a replica may take: its budget and 96 MiB.
const MEMORY: u64 = (64 + 96) << 20;

/// Does what the plan says, prints what came of it, and insists on nothing lost and nothing doubled.
#[track_caller]
pub fn run(plan: &Plan) {
    eprintln!("kill_anywhere: {plan:?}; again with LAKEHEAD_KILL_SEED={}", plan.seed);
    let began = Instant::now();
    let mut world = World::start(plan);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        world.faults();
        world.drain();
    }));
    world.keep();
    ran.unwrap_or_else(|panic| resume_unwind(panic));
    let outcome = world.end();
    println!("{}", outcome.line(plan, began.elapsed()));
    let problems = outcome.problems();
    assert!(problems.is_empty(), "seed {}: {problems:?}", plan.seed);
}

enum Store {
    S3(Minio),
    Azure(Azurite),
}

impl Store {
    fn start(kind: StoreKind) -> Store {
        match kind {
            StoreKind::S3 => {
                let minio = Minio::start();
                minio.bucket("lake");
                Store::S3(minio)
            }
            StoreKind::Azure => {
                let azurite = Azurite::start();
                azurite.container("lake");
                Store::Azure(azurite)
            }
        }
    }

    fn root(&self) -> &'static str {
        match self {
            Store::S3(_) => "s3://lake",
            Store::Azure(_) => "az://lake",
        }
    }

    fn address(&self) -> String {
        match self {
            Store::S3(minio) => minio.address(),
            Store::Azure(azurite) => azurite.address(),
        }
    }

    /// The variables by which programs find it, directly or through a port before it.
    fn environment(&self, through: Option<u16>) -> Vec<(&'static str, String)> {
        let mut all = match self {
            Store::S3(minio) => minio.environment(),
            Store::Azure(azurite) => azurite.environment(),
        };
        let Some(port) = through else { return all };
        for (name, value) in &mut all {
            match (*name, self) {
                ("AWS_ENDPOINT_URL", _) => *value = format!("http://127.0.0.1:{port}"),
                (_, Store::Azure(azurite)) => *value = azurite.connection_string_through(port),
                _ => {}
            }
        }
        all
    }
}

struct World<'p> {
    plan: &'p Plan,
    rng: Xoshiro256PlusPlus,
    // In the order in which they are to end.
    replicas: Vec<Replica>,
    publisher: Publisher,
    broker: Broker,
    store: Store,
    home: Home,
    watch: Arc<Watch>,
    runtime: Runtime,
    /// All is published, and nothing was left to receive when we last looked.
    idle: bool,
    asked: Instant,
    said: Instant,
}

/// What a replica, and whoever drains, is told; the URL of the broker and the listener are its own.
fn config(plan: &Plan, broker_url: &str, root: &str, keys: &str) -> String {
    format!(
        r#"
[rabbitmq]
url = "{broker_url}?heartbeat={heartbeat}"
queue_type = "{queues}"
prefetch = 1000
consumers = 2

[rabbitmq.data_lake]
queue = "logging_data_lake"
bindings = ["risk.evaluated"]
layouts = ["risk_evaluations"]

[rabbitmq.audit_log]
queue = "logging_audit"
bindings = ["auth.#", "user.#", "secret.#", "plan.#"]
layouts = ["audit_log"]

[rabbitmq.ml_audit]
queue = "logging_ml_audit"
bindings = ["ml.prediction.completed"]
layouts = ["ml_audit"]

[data_lake]
url = "{root}"

[roll]
age = "1s"

[limits]
memory = "64MiB"
put_deadline = "3s"
hold = "20s"
shutdown_deadline = "30s"

[archive]
signing_key_file = "{keys}/signing-key.pem"
trust_file = "{keys}/trust.json"
digest_age = "1s"
"#,
        heartbeat = plan.heartbeat,
        queues = plan.queues,
    )
}

impl<'p> World<'p> {
    fn start(plan: &'p Plan) -> World<'p> {
        let store = thread::spawn({
            let kind = plan.store;
            move || Store::start(kind)
        });
        let broker = Broker::start();
        let store = store.join().expect("the store starts");
        let home =
            Home::new().with(&store.environment(None)).with(&[("LAKEHEAD_HTTP__LISTEN", String::new())]);
        home.run(&["audit", "keygen", "--out", "keys"]).ok();
        let keys = home.path("keys").display().to_string();
        home.write("lakehead.toml", config(plan, &broker.url(), store.root(), &keys));
        // Declares the queues, so that no event is without one.
        home.run(&["run", "--until-empty", "--config", "lakehead.toml"]).ok();
        let watch = Arc::new(Watch::start());
        let replica = |n| {
            let links = [TcpProxy::start(&broker.address()), TcpProxy::start(&store.address())];
            let home = Home::new().with(&store.environment(Some(links[STORE].port())));
            let home = home.with(&[("LAKEHEAD_WRITER__NAME", format!("replica-{n}"))]);
            let url = broker.url_through(links[BROKER].port());
            home.write("lakehead.toml", config(plan, &url, store.root(), &keys));
            Replica::start(home, links, &watch)
        };
        let replicas = (0..2).map(replica).collect();
        let publisher = Publisher::start(&broker.url(), plan);
        let runtime = Runtime::new().expect("a runtime");
        let (rng, said) = (plan.rng(), Instant::now());
        World {
            plan,
            rng,
            replicas,
            publisher,
            broker,
            store,
            home,
            watch,
            runtime,
            idle: false,
            said,
            asked: said,
        }
    }

    /// Deals the faults at random moments, until all events are published.
    fn faults(&mut self) {
        let deck = self.plan.deck(&mut self.rng);
        let beat = self.plan.time / u32::try_from(deck.len()).expect("few faults");
        for fault in deck {
            let pause = between(&mut self.rng, [Duration::ZERO, 2 * beat]);
            self.pass(pause);
            self.strike(fault);
        }
        while !self.publisher.ended() {
            self.pass(TICK);
        }
    }

    fn strike(&mut self, fault: Fault) {
        let rng = &mut self.rng;
        let (now, link) = (Instant::now(), rng.random_range(0..2));
        let (nap, stall) = (between(rng, self.plan.nap), between(rng, self.plan.stall));
        let (coin, mut at) = (rng.random_bool(0.5), rng.random_range(0..self.replicas.len()));
        // Who sleeps is left to sleep, if anybody is awake.
        if matches!(fault, Fault::Kill | Fault::Stop) && self.replicas[at].asleep.is_some() {
            at = (0..self.replicas.len()).find(|i| self.replicas[*i].asleep.is_none()).unwrap_or(at);
        }
        let victim = &mut self.replicas[at];
        match fault {
            Fault::Kill => victim.kill(),
            Fault::Stop => {
                victim.stop(now + nap);
                if coin {
                    // The broker gives its messages to the other one at once, not only when it misses the heartbeat.
                    victim.links[BROKER].cut();
                }
            }
            Fault::Restart => {
                self.watch.hold(true);
                if coin {
                    self.broker.kill();
                }
                self.broker.restart();
            }
            Fault::Cut => victim.links[link].cut(),
            Fault::Stall => {
                victim.links[link].stall();
                victim.stalled[link] = Some(now + stall);
            }
        }
    }

    /// Lets time go on, and ends what has lasted long enough.
    fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let now = Instant::now();
            self.replicas.iter_mut().for_each(|r| r.heal(now));
            if self.publisher.ended() && self.asked.elapsed() > ASK {
                self.look();
            }
            self.watch.hold(self.idle || !self.replicas.iter().any(Replica::is_free));
            if self.said.elapsed() > LINES {
                self.said = now;
                let ready: Vec<_> = self.depths().iter().map(|queue| queue.ready).collect();
                let (published, stall) = (self.publisher.confirmed(), self.watch.longest());
                eprintln!("{published} published, {ready:?} ready, longest stall {stall:.1?}");
            }
            if now >= until {
                return;
            }
            thread::sleep(TICK.min(until - now));
        }
    }

    /// Sees whether there is anything left to receive; what a sleeping replica holds is not.
    fn look(&mut self) -> Vec<Depth> {
        let depths = self.depths();
        self.asked = Instant::now();
        self.idle = !depths.is_empty() && depths.iter().all(|queue| queue.is_empty());
        depths
    }

    /// What the broker says of each queue; nothing, while it cannot be asked.
    fn depths(&self) -> Vec<Depth> {
        let url = self.broker.url();
        let asked = async {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.ok()?;
            let mut all = Vec::new();
            for queue in QUEUES {
                all.push(depth(&connection, queue).await.ok()??);
            }
            Some(all)
        };
        self.runtime.block_on(asked).unwrap_or_default()
    }

    /// Nothing more goes wrong. Until everybody is awake, and nothing is left to receive.
    #[track_caller]
    fn drain(&mut self) {
        let start = Instant::now();
        loop {
            self.replicas.iter_mut().for_each(Replica::alive);
            let depths = self.look();
            if self.idle && self.replicas.iter().all(Replica::is_free) {
                return;
            }
            assert!(start.elapsed() < DRAIN, "{depths:?} are not empty; seed {}", self.plan.seed);
            self.pass(Duration::from_secs(1));
        }
    }

    /// Runs a command to its end, however long it takes.
    fn lakehead(&self, args: &[&str]) -> Output {
        let mut command = self.home.command(args);
        command.args(["--config", "lakehead.toml"]).output().expect("the built binary starts")
    }

    /// Keeps the replicas' logs, where somebody wants them.
    fn keep(&self) {
        let Some(into) = env::var_os("LAKEHEAD_KILL_LOGS").map(PathBuf::from) else { return };
        fs::create_dir_all(&into).expect("LAKEHEAD_KILL_LOGS is a folder");
        for (n, replica) in self.replicas.iter().enumerate() {
            let to = into.join(format!("replica-{n}.log"));
            fs::copy(replica.folder().join("lakehead.log"), to).expect("the log can be copied");
        }
    }

    #[track_caller]
    fn end(mut self) -> Outcome {
        // Whoever drains the rest is not watched.
        let stall = self.watch.longest();
        let peak = self.replicas.drain(..).map(|replica| replica.end(END)).max().unwrap_or(0);
        // What a replica still held comes back, and lands here.
        let drained = self.lakehead(&["run", "--until-empty"]);
        let told = String::from_utf8_lossy(&drained.stderr);
        assert!(drained.status.success() && told.contains("nothing remained unacknowledged"), "{told}");
        let (all, uncertain) = self.publisher.result();
        let datasets = count(&self.home, self.store.root(), &self.store.environment(None), all, &uncertain);
        let verified = self.lakehead(&["audit", "verify", "--json"]);
        let report: Value = serde_json::from_slice(&verified.stdout).expect("a report in JSON");
        Outcome {
            datasets,
            verified: verified.status.code().unwrap_or(-1),
            findings: report["counts"].to_string(),
            peak,
            stall,
        }
    }
}

struct Outcome {
    datasets: Vec<Counted>,
    /// Exit code of `audit verify`.
    verified: i32,
    findings: String,
    /// Bytes.
    peak: u64,
    stall: Duration,
}

impl Outcome {
    fn problems(&self) -> Vec<String> {
        let wrong = self.datasets.iter().filter(|d| !d.is_good());
        let mut problems: Vec<String> = wrong.map(Counted::told).collect();
        // Incomplete evidence is what killed writers leave: their chains were ended by nobody yet.
        if ![0, 4].contains(&self.verified) {
            problems.push(format!("audit verify ended with {}: {}", self.verified, self.findings));
        }
        if self.peak > MEMORY {
            problems.push(format!("a replica took {} MiB: more than the budget and 96 MiB", self.peak >> 20));
        }
        problems
    }

    /// A row of a table in Markdown, under its heading.
    fn line(&self, plan: &Plan, took: Duration) -> String {
        let sum = |f: fn(&Counted) -> u64| self.datasets.iter().map(f).sum::<u64>();
        let f = plan.faults;
        format!(
            "{}\naudit verify: exit {}, {}\n\
             | store | queues | events | kills | stops | broker restarts | cuts | stalls | lost | doubled | longest stall | peak memory | took |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|\n\
             | {:?} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} s | {} MiB | {:.0} s |",
            self.datasets.iter().map(Counted::told).collect::<Vec<_>>().join("\n"),
            self.verified,
            self.findings,
            plan.store,
            plan.queues,
            sum(|d| d.wanted),
            f.kills,
            f.stops,
            f.restarts,
            f.cuts,
            f.stalls,
            sum(|d| d.lost),
            sum(|d| d.doubled + d.unasked),
            self.stall.as_secs_f64(),
            self.peak >> 20,
            took.as_secs_f64(),
        )
    }
}
