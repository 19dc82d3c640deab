//! Writers: one run of one process, as the store knows it (rule 1 of the delivery protocol).
//!
//! A registration is put before anything is consumed, refreshed while the process lives, and removed when every put's
//! outcome is known. Registrations are the only objects that are overwritten or deleted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::{Clock, Micros, micros};
use crate::error::{Error, Result};
use crate::event::time::format_micros;
use crate::pipeline::look::AT_ONCE;
use crate::store::Store;

/// Folder of registrations, below the root.
pub const FOLDER: &str = "_lakehead/writers";

/// How often a registration is refreshed.
pub const REFRESH: Duration = Duration::from_secs(10);

/// A writer that finds more than this gone since its last refresh re-reads its registration before any put.
const STALE: Duration = Duration::from_secs(60);

/// Another writer that has not refreshed for so long is closed. It is safe to close one that lives; it costs it a new
/// beginning.
const CLOSED: Duration = Duration::from_secs(100);

/// Own refreshes that are remembered: as many as fit into that time.
const REFRESHES: usize = 10;

/// A writer that has not refreshed for so long is taken for dead, where that is harmless if it is not.
const SILENT: Duration = Duration::from_secs(120);

/// Deaths are counted for so long.
const LATELY: Duration = Duration::from_secs(3600);

/// A registration not refreshed for so long may be removed.
const FORGOTTEN: Duration = Duration::from_secs(30 * 86_400);

/// A writer that comes back after so long starts anew: somebody may be removing its registration at this moment.
const ASLEEP: Duration = Duration::from_secs(29 * 86_400);

/// What a registration says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The writer.
    pub writer: String,
    /// The host's name.
    pub host: String,
    /// When it started, ISO 8601.
    pub started: String,
    /// The program's version.
    pub version: String,
    /// The datasets that it may write: only their partitions need its fences.
    pub datasets: Vec<String>,
}

/// Another writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub writer: String,
    /// True if it has been silent for so long that it may be closed.
    pub silent: bool,
}

#[derive(Debug)]
struct Refreshes {
    last: Instant,
    /// The same moment by the clock on the wall, which goes on while a machine is suspended.
    last_seen_at: Micros,
    /// The store's times of our own refreshes, oldest first.
    store_times: VecDeque<Micros>,
    /// What others' registrations say; they never change.
    known: BTreeMap<String, Registration>,
}

/// This writer's registration, and its view of the others.
#[derive(Debug)]
pub struct Registry {
    store: Store,
    registration: Registration,
    clock: Clock,
    refreshes: Mutex<Refreshes>,
}

/// A name that is fit for objects: what the configuration says, made safe, and a fresh id.
pub fn fresh_writer(name: &str, id: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '_' })
        .take(80)
        .collect();
    let safe = safe.trim_start_matches(['_', '.']);
    if safe.is_empty() { format!("w-{id}") } else { format!("{safe}-{id}") }
}

/// The writer that an object registers.
fn writer_of(meta: &ObjectMeta) -> Option<&str> {
    meta.location.filename()?.strip_suffix(".json")
}

impl Registry {
    /// Registers a writer. Nothing may be consumed before this has returned.
    ///
    /// # Errors
    /// The store's.
    pub async fn register(
        store: Store,
        writer: String,
        host: &str,
        datasets: Vec<String>,
        clock: &Clock,
    ) -> Result<Registry> {
        let registration = Registration {
            writer,
            host: host.to_owned(),
            started: format_micros(clock.now()),
            version: env!("CARGO_PKG_VERSION").into(),
            datasets,
        };
        let refreshes = Refreshes {
            last: Instant::now(),
            last_seen_at: clock.now(),
            store_times: VecDeque::new(),
            known: BTreeMap::new(),
        };
        let registry =
            Registry { store, registration, clock: clock.clone(), refreshes: Mutex::new(refreshes) };
        registry.refresh().await?;
        Ok(registry)
    }

    /// This writer.
    pub fn writer(&self) -> &str {
        &self.registration.writer
    }

    /// Puts the registration again. Also proves that the store takes puts.
    ///
    /// # Errors
    /// The store's.
    pub async fn refresh(&self) -> Result<()> {
        let (began, began_at) = (Instant::now(), self.clock.now());
        let path = self.path(self.writer())?;
        let body = serde_json::to_vec_pretty(&self.registration)
            .map_err(|e| Error::bug("cannot write a registration").source(e))?;
        self.store.overwrite(&path, body.into()).await?;
        let stored_at = self.store.head(&path).await?.map(|m| m.last_modified.timestamp_micros());
        let mut refreshes = self.lock();
        (refreshes.last, refreshes.last_seen_at) = (began, began_at);
        refreshes.store_times.extend(stored_at);
        while refreshes.store_times.len() > REFRESHES {
            refreshes.store_times.pop_front();
        }
        Ok(())
    }

    /// Makes sure that nobody has removed us while we slept; false: somebody has, or may have, and this writer must start
    /// anew as another.
    ///
    /// # Errors
    /// The store's.
    pub async fn before_put(&self) -> Result<bool> {
        if self.slept() { self.keep().await } else { Ok(true) }
    }

    /// Refreshes the registration, unless it was removed while we slept (then it must not come back) or could have been:
    /// then the answer is false.
    ///
    /// # Errors
    /// The store's.
    pub async fn keep(&self) -> Result<bool> {
        if !self.slept() {
            return self.refresh().await.map(|()| true);
        }
        let before = self.store.head(&self.path(self.writer())?).await?;
        let Some(before) = before.map(|meta| meta.last_modified.timestamp_micros()) else {
            tracing::warn!(
                writer = self.writer(),
                "the registration is gone: did this process sleep for a month?"
            );
            return Ok(false);
        };
        self.refresh().await?;
        let now = self.lock().store_times.back().copied();
        Ok(now.is_some_and(|now| now - before < micros(ASLEEP)))
    }

    fn slept(&self) -> bool {
        let refreshes = self.lock();
        let by_clock = (self.clock.now() - refreshes.last_seen_at).abs();
        refreshes.last.elapsed() > STALE || by_clock > micros(STALE)
    }

    /// Removes the registration; every put under it has an outcome.
    ///
    /// # Errors
    /// The store's.
    pub async fn unregister(&self) -> Result<()> {
        self.store.delete(&self.path(self.writer())?).await
    }

    /// The other registered writers of a dataset. Must be asked *before* a partition is listed: who is not named
    /// here has no put under way.
    ///
    /// # Errors
    /// The store's.
    pub async fn others(&self, dataset: &str) -> Result<Vec<Other>> {
        let folder = self.store.path(FOLDER)?;
        let listed = self.store.list_all(&folder).await?;
        let asked: Vec<_> = listed.iter().map(|meta| self.other(meta, dataset)).collect();
        let others: Vec<_> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        let there: BTreeSet<&str> = listed.iter().filter_map(|meta| writer_of(meta)).collect();
        self.lock().known.retain(|writer, _| there.contains(writer.as_str()));
        Ok(others.into_iter().flatten().collect())
    }

    /// The writer that an object registers, if it is another one and writes the dataset.
    async fn other(&self, meta: &ObjectMeta, dataset: &str) -> Result<Option<Other>> {
        let Some(writer) = writer_of(meta) else { return Ok(None) };
        if writer == self.writer() || !self.writes(writer, dataset).await? {
            return Ok(None);
        }
        let silent = self.is_silent(meta.last_modified.timestamp_micros());
        Ok(Some(Other { writer: writer.to_owned(), silent }))
    }

    async fn writes(&self, writer: &str, dataset: &str) -> Result<bool> {
        if let Some(known) = self.lock().known.get(writer) {
            return Ok(known.datasets.iter().any(|d| d == dataset));
        }
        let Some(body) = self.store.get(&self.path(writer)?).await? else { return Ok(false) };
        match serde_json::from_slice::<Registration>(&body) {
            Ok(registration) => {
                let writes = registration.datasets.iter().any(|d| d == dataset);
                self.lock().known.insert(writer.to_owned(), registration);
                Ok(writes)
            }
            // Fencing too many is safe.
            Err(_) => Ok(true),
        }
    }

    /// True if a writer may be closed, by the store's times alone. A process need not be old to see that: where processes
    /// die every few seconds, none ever is, and each would fence all the dead again.
    fn is_silent(&self, refreshed_at: Micros) -> bool {
        let refreshes = self.lock();
        let times = &refreshes.store_times;
        // Who could not refresh for a while does not know who else could not.
        let steady = times.iter().zip(times.iter().skip(1)).all(|(a, b)| b - a < micros(STALE));
        steady && times.back().is_some_and(|now| now - refreshed_at > micros(CLOSED))
    }

    /// How many writers fell silent within the last hour without removing their registrations, by the store's times; 0
    /// if the store does not say.
    pub async fn lately_died(&self) -> usize {
        let Some(now) = self.lock().store_times.back().copied() else { return 0 };
        let listed = async { self.store.list_all(&self.store.path(FOLDER)?).await };
        let silence = |refreshed_at: Micros| now.saturating_sub(refreshed_at);
        match listed.await {
            Ok(all) => {
                let all = all.iter().map(|meta| silence(meta.last_modified.timestamp_micros()));
                all.filter(|s| (micros(SILENT)..micros(LATELY)).contains(s)).count()
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot list the writers");
                0
            }
        }
    }

    /// Removes registrations that nobody has refreshed for 30 days by the store's own time. Whoever slept so long finds
    /// that out before its next put, see [`Registry::before_put`].
    ///
    /// # Errors
    /// The store's.
    pub async fn remove_forgotten(&self) -> Result<usize> {
        let now = self.lock().store_times.back().copied();
        let Some(now) = now else { return Ok(0) };
        let mut removed = 0;
        for meta in self.store.list_all(&self.store.path(FOLDER)?).await? {
            if now - meta.last_modified.timestamp_micros() > micros(FORGOTTEN) {
                self.store.delete(&meta.location).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn path(&self, writer: &str) -> Result<object_store::path::Path> {
        self.store.path(&format!("{FOLDER}/{writer}.json"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Refreshes> {
        self.refreshes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn writer_names_are_safe_for_paths() {
        assert_eq!(fresh_writer("host-1/../x", "01"), "host_1_.._x-01");
        assert_eq!(fresh_writer("_x", "01"), "x-01");
        assert_eq!(fresh_writer("", "01"), "w-01");
    }

    #[tokio::test]
    async fn others_are_those_who_write_the_dataset() {
        let store = Store::memory();
        let clock = Clock::manual(0);
        let register = |name: &str, dataset: &str| {
            Registry::register(store.clone(), name.into(), "h", vec![dataset.into()], &clock)
        };
        let a = register("a", "x").await.expect("a");
        let b = register("b", "x").await.expect("b");
        let _c = register("c", "y").await.expect("c");
        let names = |o: Vec<Other>| o.into_iter().map(|o| (o.writer, o.silent)).collect::<Vec<_>>();
        assert_eq!(names(a.others("x").await.expect("list")), [("b".to_owned(), false)]);
        b.unregister().await.expect("gone");
        assert_eq!(names(a.others("x").await.expect("list")), []);
    }

    fn age(store: &Path, writer: &str, days: u64) {
        let file =
            std::fs::File::options().write(true).open(store.join(FOLDER).join(format!("{writer}.json")));
        let at = std::time::SystemTime::now() - Duration::from_secs(days * 86_400);
        file.and_then(|f| f.set_modified(at)).expect("its time is set");
    }

    #[tokio::test]
    async fn the_forgotten_are_removed_and_whoever_slept_so_long_starts_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("file://{}", dir.path().display());
        let location = crate::store::Location { url, ..Default::default() };
        let store = crate::store::open(&location, Duration::from_secs(10)).expect("a store");
        let register = async |name: &str| {
            let datasets = vec!["x".to_owned()];
            Registry::register(store.clone(), name.into(), "h", datasets, &Clock::System).await.expect(name)
        };
        let (young, sleeper, gone) = (register("a").await, register("b").await, register("c").await);
        for registry in [&young, &sleeper, &gone] {
            registry.lock().last_seen_at -= micros(STALE) + 1;
        }
        age(dir.path(), "a", 28);
        age(dir.path(), "b", 30);
        age(dir.path(), "c", 31);
        let other = register("d").await;
        // Not removed yet, but it may be at any moment.
        assert!(!sleeper.before_put().await.expect("an answer"));
        assert_eq!(other.remove_forgotten().await.expect("removed"), 1);
        assert!(!gone.before_put().await.expect("an answer"));
        assert!(young.before_put().await.expect("an answer"));
        let names: Vec<_> = other.others("x").await.expect("list").into_iter().map(|o| o.writer).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
