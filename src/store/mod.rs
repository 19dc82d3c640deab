//! The object store, as much of it as Lakehead uses: create-only puts, reads, lists.
//!
//! Owns one try with its deadline, and the words of errors. Does not own repetition: who repeats a put knows what
//! "exists" means to him. Contract towards the loop: [`Store::create`] never overwrites; an object appears whole or not
//! at all; an answer that was lost may still have had its effect.

pub mod columns;
mod deadlines;
mod folder;
mod open;
pub mod tail;
mod versions;

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use tokio::time::Instant;

pub use open::{Auth, Location, open};
pub use versions::{Lock, Versions};

use crate::error::{Error, Result};

/// What a create-only put found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is new, and ours.
    Created,
    /// Something stands there already: perhaps our own earlier try.
    Exists,
}

/// Bytes a second of the slowest link that large objects are put over.
pub(crate) const SLOWEST: u64 = 1 << 20;

/// A store and the folder in it below which everything lies.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    root: Path,
    shown: Arc<str>,
    deadline: Duration,
    refusal: Arc<Mutex<Option<Refusal>>>,
    versions: Option<Arc<Versions>>,
    folder: Option<Arc<std::path::Path>>,
}

/// Puts that fail, and none that succeeds between them.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// When the first of them failed.
    pub since: Instant,
    /// When the last of them failed.
    pub last: Instant,
    /// What the store said last.
    pub what: String,
    /// The way out.
    pub hint: Option<String>,
}

impl Store {
    /// A store from its parts; `shown` names it in messages, without secrets.
    pub fn new(inner: Arc<dyn ObjectStore>, root: Path, shown: &str, deadline: Duration) -> Self {
        Store {
            inner,
            root,
            shown: shown.into(),
            deadline,
            refusal: Arc::default(),
            versions: None,
            folder: None,
        }
    }

    /// The same store, which can be asked about versions.
    pub fn with_versions(self, versions: Option<Versions>) -> Self {
        Store { versions: versions.map(Arc::new), ..self }
    }

    /// Whom to ask about versions, where the store is of a kind that may keep some.
    pub fn versions(&self) -> Option<&Versions> {
        self.versions.as_deref()
    }

    /// The same store, which is a folder of this machine.
    pub fn in_folder(self, folder: Option<&str>) -> Self {
        Store { folder: folder.map(|f| std::path::Path::new(f).into()), ..self }
    }

    /// The folder of this machine that it is, if it is one: many small files are read there without a task for each.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.folder.as_deref()
    }

    /// A store in memory, for tests.
    pub fn memory() -> Self {
        Store::new(
            Arc::new(object_store::memory::InMemory::new()),
            Path::default(),
            "memory://",
            Duration::from_secs(10),
        )
    }

    /// The store for those who speak object_store, with the same deadlines, and puts that are noted.
    pub fn with_deadlines(&self) -> Arc<dyn ObjectStore> {
        Arc::new(deadlines::Deadlines(self.clone()))
    }

    /// The store as object_store knows it.
    pub fn object_store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }

    /// The folder below which everything lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store's name in messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Longest that one try may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Longest that one try with so many bytes may take: on a slow link a large file would else never be stored.
    fn deadline_for(&self, bytes: u64) -> Duration {
        self.deadline + Duration::from_secs(bytes / SLOWEST)
    }

    /// The full path of a name below the root. `relative` is already percent-encoded where it must be.
    ///
    /// # Errors
    /// A path that the store cannot have, which the encoding of its parts rules out: a bug.
    pub fn path(&self, relative: &str) -> Result<Path> {
        let full = match self.root.as_ref() {
            "" => relative.to_owned(),
            root => format!("{root}/{relative}"),
        };
        Path::parse(&full).map_err(|e| Error::bug(format!("not a path: {full}")).source(e))
    }

    /// A path's name below the root.
    pub fn relative<'p>(&self, path: &'p Path) -> &'p str {
        let full = path.as_ref();
        full.strip_prefix(self.root.as_ref()).map_or(full, |rest| rest.trim_start_matches('/'))
    }

    /// Puts an object under a name that nobody has; one try.
    ///
    /// # Errors
    /// Whatever keeps the outcome from being known: the store may or may not have the object.
    pub async fn create(&self, path: &Path, bytes: Bytes) -> Result<Put> {
        let done = self.put_new(path, bytes).await;
        self.remember(done.as_ref().err().map(|e| (e.to_string(), e.way_out())));
        done
    }

    /// Creates an empty object, to see whether the store takes puts. No refusal is forgotten for it: a full disk has room
    /// for this one.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn probe(&self, path: &Path) -> Result<Put> {
        self.put_new(path, Bytes::new()).await
    }

    async fn put_new(&self, path: &Path, bytes: Bytes) -> Result<Put> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let deadline = self.deadline_for(bytes.len() as u64);
        let put = self.inner.put_opts(path, PutPayload::from(bytes), options);
        match tokio::time::timeout(deadline, put).await {
            Ok(Ok(_)) => Ok(Put::Created),
            Ok(Err(e)) if is_taken(&e) => Ok(Put::Exists),
            Ok(Err(e)) => Err(self.error("put", path, e)),
            Err(_) => Err(self.slow("put", path, deadline)),
        }
    }

    /// Notes how a put ended: what the store said, and the way out.
    fn remember(&self, failed: Option<(String, Option<&str>)>) {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let since = refusal.as_ref().map(|r| r.since);
        *refusal = failed.map(|(what, hint)| Refusal {
            since: since.unwrap_or_else(Instant::now),
            last: Instant::now(),
            what,
            hint: hint.map(str::to_owned),
        });
    }

    /// Set while every put fails, for those who do not repeat them for ever.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts an object, whether there is one or not; only registrations are written so.
    ///
    /// # Errors
    /// The store's.
    pub async fn overwrite(&self, path: &Path, bytes: Bytes) -> Result<()> {
        let put = self.inner.put(path, PutPayload::from(bytes));
        match tokio::time::timeout(self.deadline, put).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(self.error("put", path, e)),
            Err(_) => Err(self.slow("put", path, self.deadline)),
        }
    }

    /// Deletes an object; one that is not there is deleted already.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete(&self, path: &Path) -> Result<()> {
        match tokio::time::timeout(self.deadline, self.inner.delete(path)).await {
            Ok(Ok(()) | Err(StoreError::NotFound { .. })) => Ok(()),
            Ok(Err(e)) => Err(self.error("delete", path, e)),
            Err(_) => Err(self.slow("delete", path, self.deadline)),
        }
    }

    /// An object's bytes; `None` if there is none.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, path: &Path) -> Result<Option<Bytes>> {
        let found = match tokio::time::timeout(self.deadline, self.inner.get(path)).await {
            Ok(Ok(found)) => found,
            Ok(Err(StoreError::NotFound { .. })) => return Ok(None),
            Ok(Err(e)) => return Err(self.error("get", path, e)),
            Err(_) => return Err(self.slow("get", path, self.deadline)),
        };
        let deadline = self.deadline_for(found.meta.size);
        match tokio::time::timeout(deadline, found.bytes()).await {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(e)) => Err(self.error("get", path, e)),
            Err(_) => Err(self.slow("get", path, deadline)),
        }
    }

    /// Some of an object's bytes.
    ///
    /// # Errors
    /// The store's, also if there is no such object.
    pub async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes> {
        let deadline = self.deadline_for(range.end.saturating_sub(range.start));
        match tokio::time::timeout(deadline, self.inner.get_range(path, range)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(e)) => Err(self.error("get", path, e)),
            Err(_) => Err(self.slow("get", path, deadline)),
        }
    }

    /// What the store says of an object; `None` if there is none.
    ///
    /// # Errors
    /// The store's.
    pub async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match tokio::time::timeout(self.deadline, self.inner.get_opts(path, options)).await {
            Ok(Ok(found)) => Ok(Some(found.meta)),
            Ok(Err(StoreError::NotFound { .. })) => Ok(None),
            Ok(Err(e)) => Err(self.error("head", path, e)),
            Err(_) => Err(self.slow("head", path, self.deadline)),
        }
    }

    /// Every object below a folder; an error also when one page takes longer than the deadline.
    pub fn list(&self, folder: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, at) = (self.clone(), folder.clone());
        let listing = self.inner.list(Some(folder)).map_err(move |e| this.error("list", &at, e));
        let (this, at) = (self.clone(), folder.clone());
        let late = move || this.slow("list", &at, this.deadline);
        deadlines::each_within(self.deadline, Box::pin(listing), late)
    }

    /// Every object below a folder, in one answer.
    ///
    /// # Errors
    /// The store's, also when one page takes longer than the deadline.
    pub async fn list_all(&self, folder: &Path) -> Result<Vec<ObjectMeta>> {
        self.list(folder).try_collect().await
    }

    fn slow(&self, verb: &str, path: &Path, deadline: Duration) -> Error {
        let seconds = deadline.as_secs_f64();
        Error::unreachable(format!("{}: {verb} {path}: no answer within {seconds} s", self.shown))
            .hint("the store is slow or cannot be reached; limits.put_deadline is the longest that one try may take, beside a second for each MiB")
    }

    fn error(&self, verb: &str, path: &Path, e: StoreError) -> Error {
        let hint = self.hint(&e);
        Error::unreachable(format!("{}: {verb} {path}", self.shown)).source(e).hint(hint)
    }

    /// The way out.
    fn hint(&self, e: &StoreError) -> &'static str {
        match e {
            StoreError::PermissionDenied { .. } => "the credentials have no right to do this",
            StoreError::Unauthenticated { .. } => "the credentials are missing, wrong or expired",
            StoreError::NotFound { .. } => "the bucket, container or object is not there",
            // Listings of what is not there come as another kind.
            _ if ["NoSuchBucket", "ContainerNotFound"].iter().any(|word| e.to_string().contains(word)) => {
                "the bucket or container is not there: create it, or correct data_lake.url"
            }
            _ if io_kind(e) == Some(ErrorKind::StorageFull) => "the disk is full: make room",
            _ if io_kind(e) == Some(ErrorKind::FileTooLarge) => "a limit on the size of files is in the way",
            _ if io_kind(e) == Some(ErrorKind::QuotaExceeded) => {
                "the quota of this user is used up: make room"
            }
            _ if matches!(
                io_kind(e),
                Some(ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied | ErrorKind::NotADirectory)
            ) =>
            {
                "data_lake.url must name a folder that this user may write to"
            }
            _ if self.folder.is_some() => {
                "the system refuses it: see the disk, and the limits of this process"
            }
            _ => "check data_lake.url, the network and the credentials: `lakehead check --connect`",
        }
    }
}

/// True if something stands under the name of a create-only put. Some stores answer one that lost its first answer with a
/// failed precondition.
fn is_taken(e: &StoreError) -> bool {
    matches!(e, StoreError::AlreadyExists { .. } | StoreError::Precondition { .. })
}

/// What the operating system said, if it was that.
fn io_kind(e: &StoreError) -> Option<ErrorKind> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(e);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refusals_last_until_a_put_succeeds() {
        let dir = tempfile::tempdir().expect("dir");
        let inner = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).expect("store");
        let store = Store::new(Arc::new(inner), Path::default(), "./lake", Duration::from_secs(10));
        std::fs::write(dir.path().join("file"), "").expect("write");
        let put = async |name: &str| store.create(&store.path(name).expect("path"), Bytes::new()).await;
        let e = put("file/below").await.expect_err("a file is no folder");
        assert!(e.way_out().is_some_and(|h| h.contains("may write to")), "{e} {:?}", e.way_out());
        let since = store.refusal().expect("it refused").since;
        assert!(put("file/other").await.is_err());
        assert_eq!(store.clone().refusal().expect("clones know it too").since, since);
        assert_eq!(put("fine").await.expect("put"), Put::Created);
        assert!(store.refusal().is_none());
    }
}
