//! A folder of this machine, where small objects are made durable together: group commit.
//!
//! Owns the order in which a group gets there. Every file is written under a name that no object has, all are synced, each
//! gets its own name unless somebody has it, then every folder with a new name is synced, once; only then is anybody told.
//! So an object that has its name is whole, also after the machine has lost power, and one that was told of is there, also
//! one that was there before. Does not own large objects, and what cannot be written here: object_store puts them, and has
//! the last word.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Name;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use tokio::sync::oneshot;

/// Larger objects do not make small ones wait.
const SMALL: usize = 1 << 20;

/// Objects that are made durable together, each of which is an open file.
const GROUP: usize = 256;

/// Bytes of a group, beside its last object.
const GROUP_BYTES: usize = 8 << 20;

/// Groups under way at once: one waits for the disk, the other for the processor.
const GROUPS: usize = 2;

/// Folders that are known to be durable, at most.
const KNOWN: usize = 16_384;

/// A folder of this machine, as a store.
#[derive(Debug)]
pub struct Folder {
    files: LocalFileSystem,
    desk: Arc<Desk>,
}

#[derive(Debug)]
struct Desk {
    root: PathBuf,
    orders: Mutex<Orders>,
    /// Folders that are known to be durable below the root, with all that they lie in.
    durable: Mutex<HashSet<PathBuf>>,
    /// Files that were ever staged.
    staged: AtomicU64,
}

#[derive(Debug, Default)]
struct Orders {
    waiting: VecDeque<Order>,
    groups: usize,
    /// As many may wait before those are dropped that nobody waits for: a disk that hangs is asked again and again.
    swept_at: usize,
}

#[derive(Debug)]
struct Order {
    path: PathBuf,
    bytes: PutPayload,
    done: oneshot::Sender<io::Result<Stage>>,
}

/// How far an object has come.
#[derive(Debug)]
enum Stage {
    /// It is written, under another name.
    Written(Staged),
    /// It has its name.
    Created,
    /// Something else had its name.
    Exists,
    /// It cannot be written here, or not be named.
    Refused,
}

impl Folder {
    /// A folder, which is made if it is not there.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &str) -> io::Result<Self> {
        let made: Vec<&Path> = Path::new(path).ancestors().take_while(|f| !f.exists()).collect();
        fs::create_dir_all(path)?;
        let root = fs::canonicalize(path)?;
        // As far as it may be read: it lies where an operator wanted it.
        root.ancestors().skip(1).take(made.len()).for_each(|parent| drop(sync(parent)));
        let files = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true);
        let desk =
            Desk { root, orders: Mutex::default(), durable: Mutex::default(), staged: AtomicU64::new(0) };
        Ok(Folder { files, desk: Arc::new(desk) })
    }

    /// Creates an object under a name that nobody has.
    async fn create(&self, name: &Name, payload: PutPayload) -> Result<PutResult> {
        let path = self.files.path_to_filesystem(name)?;
        let stage = if payload.content_length() <= SMALL {
            self.in_a_group(path.clone(), payload.clone()).await.map_err(undurable)?
        } else {
            Stage::Refused
        };
        match stage {
            Stage::Created => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            Stage::Exists => Err(exists(name)),
            Stage::Refused | Stage::Written(_) => self.alone(name, &path, payload).await,
        }
    }

    async fn in_a_group(&self, path: PathBuf, bytes: PutPayload) -> io::Result<Stage> {
        let (done, outcome) = oneshot::channel();
        if self.desk.take(Order { path, bytes, done }) {
            let desk = Arc::clone(&self.desk);
            tokio::task::spawn_blocking(move || desk.work_off());
        }
        outcome.await.unwrap_or_else(|e| Err(io::Error::other(e)))
    }

    /// Has object_store put it, and sees to what that leaves out: folders that somebody else has made, or a name that
    /// somebody else has taken, need not be durable yet.
    async fn alone(&self, name: &Name, path: &Path, payload: PutPayload) -> Result<PutResult> {
        let folder = path.parent().unwrap_or(&self.desk.root).to_owned();
        let (desk, parent) = (Arc::clone(&self.desk), folder.clone());
        on_a_thread(move || desk.make_durable(&parent)).await?;
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.files.put_opts(name, payload, create).await;
        if matches!(put, Err(StoreError::AlreadyExists { .. })) {
            on_a_thread(move || sync(&folder)).await?;
        }
        put
    }
}

async fn on_a_thread(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await?.map_err(undurable)
}

fn undurable(e: io::Error) -> StoreError {
    StoreError::Generic { store: "folder", source: e.into() }
}

fn exists(name: &Name) -> StoreError {
    let source = io::Error::from(ErrorKind::AlreadyExists).into();
    StoreError::AlreadyExists { path: name.to_string(), source }
}

impl Desk {
    /// Takes an order; true if somebody is to be called who works it off.
    fn take(&self, order: Order) -> bool {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.waiting.len() >= orders.swept_at.max(GROUP * 4) {
            orders.waiting.retain(|order| !order.done.is_closed());
            orders.swept_at = orders.waiting.len() * 2;
        }
        orders.waiting.push_back(order);
        let wanted = orders.groups < GROUPS;
        orders.groups += usize::from(wanted);
        wanted
    }

    /// Commits group after group, until nothing waits.
    fn work_off(&self) {
        loop {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            let group = next_group(&mut orders.waiting);
            if group.is_empty() {
                orders.groups -= 1;
                return;
            }
            drop(orders);
            // What panics has dropped its orders, so that who asked knows; the others are still to be worked off.
            let _ = catch_unwind(AssertUnwindSafe(|| self.commit(group)));
        }
    }

    fn commit(&self, orders: Vec<Order>) {
        let mut group: Vec<(Order, io::Result<Stage>)> = Vec::with_capacity(orders.len());
        for order in orders {
            let stage = self.stage(&order);
            group.push((order, stage));
        }
        // Each step for all of them before the next: the disk works meanwhile, and to name a file changes it, and its
        // neighbours on the disk with it.
        advance(&mut group, |staged, _| staged.begin().err().map(|_| Ok(Stage::Refused)));
        advance(&mut group, |staged, _| staged.finish().err().map(Err));
        advance(&mut group, |staged, path| Some(Ok(staged.name(path))));
        let named = |stage: &io::Result<Stage>| matches!(stage, Ok(Stage::Created | Stage::Exists));
        let folders: HashSet<&Path> = group
            .iter()
            .filter(|(_, stage)| named(stage))
            .filter_map(|(order, _)| order.path.parent())
            .collect();
        let failed: HashMap<PathBuf, io::Error> = folders
            .into_iter()
            .filter_map(|folder| sync(folder).err().map(|e| (folder.to_owned(), e)))
            .collect();
        for (order, stage) in group {
            let failed = order.path.parent().and_then(|folder| failed.get(folder));
            let stage = failed.map_or(stage, |e| Err(io::Error::new(e.kind(), e.to_string())));
            // Who asked may have gone, for it took too long.
            let _ = order.done.send(stage);
        }
    }

    /// Writes an object's bytes beside where it will be.
    fn stage(&self, order: &Order) -> io::Result<Stage> {
        self.make_durable(order.path.parent().unwrap_or(&self.root))?;
        // Whoever repeats a put that took too long must not wait for it to be written again.
        if fs::symlink_metadata(&order.path).is_ok() {
            return Ok(Stage::Exists);
        }
        // As object_store names them, which does not list them.
        let mut path = order.path.clone().into_os_string();
        path.push(format!("#{}", self.staged.fetch_add(1, Ordering::Relaxed)));
        match Staged::write(path.into(), &order.bytes) {
            Ok(staged) => Ok(Stage::Written(staged)),
            Err(e) => {
                if e.kind() == ErrorKind::NotFound {
                    // A folder that was known is gone: somebody removes them, and others may make them anew.
                    self.durable.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
                Ok(Stage::Refused)
            }
        }
    }

    /// Makes a folder and those that it lies in. That it is there already does not tell that its name would outlast the
    /// machine: who made it may be about to sync it, or have died.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if folder == self.root || durable.contains(folder) {
            return Ok(());
        }
        if fs::create_dir_all(folder).is_err() {
            // Whoever writes to it will say what is wrong.
            return Ok(());
        }
        let unknown = |f: &&Path| **f != self.root && !durable.contains(*f);
        let unknown: Vec<&Path> = folder.ancestors().take_while(unknown).collect();
        for parent in unknown.iter().filter_map(|f| f.parent()) {
            sync(parent)?;
        }
        if durable.len() >= KNOWN {
            durable.clear();
        }
        durable.extend(unknown.into_iter().map(Path::to_owned));
        Ok(())
    }
}

/// Takes every object that is written a step further, unless it stays what it is.
fn advance(
    group: &mut [(Order, io::Result<Stage>)],
    step: impl Fn(&mut Staged, &Path) -> Option<io::Result<Stage>>,
) {
    for (order, stage) in group {
        if let Ok(Stage::Written(staged)) = stage
            && let Some(next) = step(staged, &order.path)
        {
            *stage = next;
        }
    }
}

/// The next orders that fit into a group, without those that nobody waits for.
fn next_group(waiting: &mut VecDeque<Order>) -> Vec<Order> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while group.len() < GROUP && bytes < GROUP_BYTES {
        let Some(order) = waiting.pop_front() else { break };
        if !order.done.is_closed() {
            bytes += order.bytes.content_length();
            group.push(order);
        }
    }
    group
}

/// A file that has no object's name yet; it is removed if it gets none.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
    file: Option<File>,
    named: bool,
}

impl Staged {
    fn write(path: PathBuf, bytes: &PutPayload) -> io::Result<Self> {
        let mut file = File::create_new(&path)?;
        let mut staged = Staged { path, file: None, named: false };
        bytes.iter().try_for_each(|part| file.write_all(part))?;
        staged.file = Some(file);
        Ok(staged)
    }

    /// Has the kernel begin to write it.
    fn begin(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), start_writing)
    }

    /// Syncs and closes it, for some file systems keep to themselves what is open.
    fn finish(&mut self) -> io::Result<()> {
        self.file.take().map_or(Ok(()), |file| file.sync_all().map_err(|e| unsynced(&self.path, &e)))
    }

    /// Gives it its name, if nobody has it.
    fn name(&mut self, path: &Path) -> Stage {
        let renamed = rename(&self.path, path);
        self.named = renamed.is_ok();
        // Not every file system can rename without replacing, but nearly all can link.
        let named = match renamed {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => fs::hard_link(&self.path, path),
            renamed => renamed,
        };
        match named {
            Ok(()) => Stage::Created,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Stage::Exists,
            Err(_) => Stage::Refused,
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.named {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| unsynced(folder, &e))
}

fn unsynced(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot sync {}: {e}", path.display()))
}

#[cfg(target_os = "linux")]
fn start_writing(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    // SAFETY: the descriptor is open as long as the file is borrowed; no memory of ours is read or written.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn start_writing(_: &File) -> io::Result<()> {
    Ok(())
}

/// Renames a file to a name that nobody has.
#[cfg(target_os = "linux")]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(target_os = "linux"))]
fn rename(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

/// Creating is ours, all else object_store's.
#[async_trait::async_trait]
impl ObjectStore for Folder {
    async fn put_opts(&self, name: &Name, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode == PutMode::Create && options.attributes.is_empty() {
            return self.create(name, payload).await;
        }
        self.files.put_opts(name, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        name: &Name,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(name, options).await
    }

    async fn get_opts(&self, name: &Name, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(name, options).await
    }

    async fn get_ranges(&self, name: &Name, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(name, ranges).await
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<Name>>) -> BoxStream<'static, Result<Name>> {
        self.files.delete_stream(names)
    }

    fn list(&self, prefix: Option<&Name>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Name>,
        offset: &Name,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Name>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Name, to: &Name, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Name, to: &Name, options: RenameOptions) -> Result<()> {
        self.files.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    fn folder(dir: &tempfile::TempDir) -> Folder {
        Folder::open(dir.path().to_str().expect("utf-8")).expect("there")
    }

    async fn create(folder: &Folder, name: &str, bytes: impl Into<Bytes>) -> Result<PutResult> {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        folder.put_opts(&Name::from(name), PutPayload::from(bytes.into()), create).await
    }

    fn files(dir: &Path) -> Vec<String> {
        let files = walkdir::WalkDir::new(dir).into_iter().map(|e| e.expect("readable"));
        let files = files.filter(|e| e.file_type().is_file());
        let mut names: Vec<String> = files.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_at_once_are_created_once_each() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = folder(&dir);
        // Every name twice, with other bytes: more than two groups, and both of a pair may be in one.
        let name = |n: usize| format!("a/day={}/{}.json", n / 2 % 7, n / 2);
        let puts = (0..2_000).map(|n| {
            let (folder, name) = (&folder, name(n));
            async move { (n, create(folder, &name, n.to_string()).await) }
        });
        let mut made = vec![0; 1_000];
        for (n, put) in futures_util::future::join_all(puts).await {
            let there = fs::read_to_string(dir.path().join(name(n))).expect("there");
            match put {
                Ok(_) => {
                    made[n / 2] += 1;
                    assert_eq!(there, n.to_string());
                }
                Err(StoreError::AlreadyExists { .. }) => assert_eq!(there, (n ^ 1).to_string()),
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(made, vec![1; 1_000]);
        let mut names: Vec<String> = (0..1_000).map(|n| format!("{n}.json")).collect();
        names.sort();
        assert_eq!(files(dir.path()), names, "nothing is left beside them");
        assert_eq!(folder.desk.durable.lock().expect("lock").len(), 8, "seven days, and what they lie in");
        assert_eq!(folder.desk.orders.lock().expect("lock").groups, 0);
    }

    #[tokio::test]
    async fn large_objects_and_folders_that_were_removed_are_no_obstacle() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = folder(&dir);
        for bytes in [SMALL, SMALL + 1] {
            let name = format!("day/{bytes}");
            create(&folder, &name, vec![b'x'; bytes]).await.expect("created");
            let again = create(&folder, &name, vec![b'y'; bytes]).await.expect_err("it exists");
            assert!(matches!(again, StoreError::AlreadyExists { .. }), "{again}");
            let there = folder.get(&Name::from(name)).await.expect("there").bytes().await.expect("read");
            assert_eq!(there, vec![b'x'; bytes]);
        }
        fs::remove_dir_all(dir.path().join("day")).expect("removed");
        create(&folder, "day/anew", "1").await.expect("created");
        create(&folder, "day/again", "2").await.expect("created");
        assert_eq!(files(dir.path()), ["again", "anew"]);
    }

    #[tokio::test]
    async fn what_the_system_refuses_is_told_in_its_words() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = folder(&dir);
        create(&folder, "file", "1").await.expect("created");
        let e = create(&folder, "file/below", "1").await.expect_err("a file is no folder");
        assert!(!matches!(e, StoreError::AlreadyExists { .. }), "{e}");
        fs::create_dir_all(dir.path().join("taken")).expect("made");
        let e = create(&folder, "taken", "1").await.expect_err("a folder has this name");
        assert!(matches!(e, StoreError::AlreadyExists { .. }), "{e}");
    }

    #[test]
    fn who_has_gone_is_not_waited_for() {
        let order = |size: usize| {
            let (done, outcome) = oneshot::channel();
            (Order { path: "x".into(), bytes: Bytes::from(vec![0; size]).into(), done }, outcome)
        };
        let (orders, mut waiters): (VecDeque<Order>, Vec<_>) = (0..2 * GROUP).map(|_| order(1)).unzip();
        let mut waiting = orders;
        waiters.truncate(GROUP + 7);
        assert_eq!(next_group(&mut waiting).len(), GROUP);
        assert_eq!(next_group(&mut waiting).len(), 7, "the others have gone");
        assert!(next_group(&mut waiting).is_empty());
        let (large, _waiters): (Vec<Order>, Vec<_>) = (0..20).map(|_| order(SMALL)).unzip();
        // A disk that hangs, and puts that time out.
        let folder = tempfile::tempdir().expect("dir");
        let desk = Desk {
            root: folder.path().into(),
            orders: Mutex::new(Orders { groups: GROUPS, ..Orders::default() }),
            durable: Mutex::default(),
            staged: AtomicU64::new(0),
        };
        for _ in 0..GROUP * 40 {
            assert!(!desk.take(order(1).0), "both groups are under way");
        }
        let held = desk.orders.lock().expect("lock").waiting.len();
        assert!(held <= GROUP * 4, "{held} are held");
        waiting.extend(large);
        let sizes: Vec<usize> =
            std::iter::from_fn(|| Some(next_group(&mut waiting).len()).filter(|n| *n > 0)).collect();
        assert_eq!(sizes, [8, 8, 4], "eight of a mebibyte are a group");
    }
}
