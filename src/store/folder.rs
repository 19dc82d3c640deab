//! A folder of this machine, where small objects are made durable together: group commit.
//!
//! Owns the order in which a group gets there. Every file is written under a name that no object has, all are synced, each
//! gets its own name unless somebody has it, then every folder with a new name is synced, once; only then is anybody told.
//! So an object that has its name is whole, also after the machine has lost power, and one that was told of is there. Does
//! not own what goes wrong before an object has its name, on a file system without such a renaming for instance: that is
//! left to object_store, which has the last word.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use tokio::sync::oneshot;

use super::Put;

/// Larger objects do not make small ones wait.
const SMALL: usize = 1 << 20;

/// Objects that are made durable together, each of which is an open file.
const GROUP: usize = 256;

/// Groups under way at once: one waits for the disk, the other for the processor.
const GROUPS: usize = 2;

/// What creating an object here has come to: `None` if it must be done in another way.
type Outcome = io::Result<Option<Put>>;

/// A folder of this machine.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: LocalFileSystem,
    desk: Arc<Desk>,
}

#[derive(Debug)]
struct Desk {
    root: PathBuf,
    orders: Mutex<Orders>,
    /// Folders below the root that are known to be durable, with all folders that they lie in.
    durable: Mutex<HashSet<PathBuf>>,
    /// Files that were ever staged.
    staged: AtomicU64,
}

#[derive(Debug, Default)]
struct Orders {
    waiting: VecDeque<Order>,
    groups: usize,
}

#[derive(Debug)]
struct Order {
    path: PathBuf,
    bytes: Bytes,
    done: oneshot::Sender<Outcome>,
}

impl Folder {
    /// The folder at `path`, which exists; `files` has it as its root.
    ///
    /// # Errors
    /// What the system says of a folder that cannot be looked up.
    pub fn new(path: &str, files: LocalFileSystem) -> io::Result<Self> {
        let desk = Desk {
            root: fs::canonicalize(path)?,
            orders: Mutex::default(),
            durable: Mutex::default(),
            staged: AtomicU64::new(0),
        };
        Ok(Folder { path: path.into(), files, desk: Arc::new(desk) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same folder, as object_store has it.
    pub fn files(&self) -> LocalFileSystem {
        self.files.clone()
    }

    /// Creates an object under a name that nobody has, together with others that are asked for meanwhile. `None` if it must
    /// be put in another way: it is large, or something went wrong before it had its name.
    ///
    /// # Errors
    /// The object may be there, and is not durable.
    pub async fn create(&self, path: &object_store::path::Path, bytes: &Bytes) -> Outcome {
        let Ok(path) = self.files.path_to_filesystem(path) else { return Ok(None) };
        if bytes.len() > SMALL {
            return Ok(None);
        }
        let (done, outcome) = oneshot::channel();
        if self.desk.take(Order { path, bytes: bytes.clone(), done }) {
            let desk = self.desk.clone();
            tokio::task::spawn_blocking(move || desk.work_off());
        }
        outcome.await.unwrap_or(Ok(None))
    }
}

impl Desk {
    /// Takes an order; true if somebody is to be called who works it off.
    fn take(&self, order: Order) -> bool {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.waiting.push_back(order);
        let wanted = orders.groups < GROUPS;
        orders.groups += usize::from(wanted);
        wanted
    }

    /// Commits group after group, until nothing waits.
    fn work_off(&self) {
        loop {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            if orders.waiting.is_empty() {
                orders.groups -= 1;
                return;
            }
            let size = orders.waiting.len().min(GROUP);
            let group: Vec<Order> = orders.waiting.drain(..size).collect();
            drop(orders);
            self.commit(group);
        }
    }

    fn commit(&self, group: Vec<Order>) {
        let staged: Vec<Option<Staged>> = group.iter().map(|order| self.stage(order).ok()).collect();
        if group.len() > 1 {
            staged.iter().flatten().for_each(|staged| system::start_writing(&staged.file));
        }
        // All of them before the first gets its name, which changes what was synced, and its neighbours on the disk.
        let synced: Vec<io::Result<Option<Staged>>> = staged
            .into_iter()
            .map(|staged| staged.map(|s| s.file.sync_all().map(|()| s)).transpose())
            .collect();
        let named: Vec<Outcome> = group
            .iter()
            .zip(synced)
            .map(|(order, staged)| Ok(staged?.and_then(|staged| staged.name(&order.path))))
            .collect();
        let there = group.iter().zip(&named).filter(|(_, outcome)| matches!(outcome, Ok(Some(_))));
        let folders: HashSet<&Path> = there.filter_map(|(order, _)| order.path.parent()).collect();
        let failed: HashMap<PathBuf, io::Error> = folders
            .into_iter()
            .filter_map(|folder| sync(folder).err().map(|e| (folder.to_owned(), e)))
            .collect();
        for (order, outcome) in group.into_iter().zip(named) {
            let failed = order.path.parent().and_then(|folder| failed.get(folder));
            let outcome = failed.map_or(outcome, |e| Err(io::Error::new(e.kind(), e.to_string())));
            // Who asked may have gone, for it took too long.
            let _ = order.done.send(outcome);
        }
    }

    /// Writes an object's bytes beside where it will be.
    fn stage(&self, order: &Order) -> io::Result<Staged> {
        self.make_durable(order.path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        // As object_store names them, so that nothing lists them.
        let mut path = order.path.clone().into_os_string();
        path.push(format!("#{}", self.staged.fetch_add(1, Ordering::Relaxed)));
        let path = PathBuf::from(path);
        let mut staged = Staged { file: File::create_new(&path)?, path, named: false };
        staged.file.write_all(&order.bytes)?;
        Ok(staged)
    }

    /// Makes a folder and those that it lies in. That it is there already does not tell that its name would outlast the
    /// machine: who made it may be about to sync it, or have died.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if folder == self.root || durable.contains(folder) {
            return Ok(());
        }
        fs::create_dir_all(folder)?;
        let unknown = |f: &&Path| **f != self.root && !durable.contains(*f);
        let unknown: Vec<&Path> = folder.ancestors().take_while(unknown).collect();
        for parent in unknown.iter().filter_map(|f| f.parent()) {
            sync(parent)?;
        }
        durable.extend(unknown.into_iter().map(Path::to_owned));
        Ok(())
    }
}

/// A file that has no object's name yet; it is removed if it gets none.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
    named: bool,
}

impl Staged {
    /// Gives it its name, if nobody has it; `None` if that cannot be done here.
    fn name(mut self, path: &Path) -> Option<Put> {
        match system::rename(&self.path, path) {
            Ok(()) => {
                self.named = true;
                Some(Put::Created)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Some(Put::Exists),
            Err(_) => None,
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
    File::open(folder)?.sync_all()
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use rustix::fs::{CWD, RenameFlags};

    /// Has the kernel begin to write a file, so that it is on its way while others are asked for.
    pub fn start_writing(file: &File) {
        // SAFETY: the descriptor is open as long as the file is borrowed; no memory of ours is read or written.
        // Whether it succeeds does not matter: the file is synced afterwards, which reports what went wrong.
        let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    }

    /// Renames a file to a name that nobody has.
    pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }
}

/// Elsewhere a file cannot be renamed without replacing another.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    pub fn start_writing(_: &File) {}

    pub fn rename(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use object_store::path::Path as Name;

    use super::*;

    fn folder(dir: &tempfile::TempDir) -> Folder {
        let path = dir.path().to_str().expect("utf-8");
        Folder::new(path, LocalFileSystem::new_with_prefix(path).expect("there")).expect("there")
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
        let puts = (0..2_000).map(|n| {
            let name = Name::from(format!("a/day={}/{}.json", n / 2 % 7, n / 2));
            let folder = &folder;
            async move { (n, folder.create(&name, &Bytes::from(n.to_string())).await.expect("durable")) }
        });
        let mut made = vec![0; 1_000];
        for (n, put) in futures_util::future::join_all(puts).await {
            let at = dir.path().join(format!("a/day={}/{}.json", n / 2 % 7, n / 2));
            let there = fs::read_to_string(at).expect("there");
            match put.expect("done here") {
                Put::Created => {
                    made[n / 2] += 1;
                    assert_eq!(there, n.to_string());
                }
                Put::Exists => assert_eq!(there, (n ^ 1).to_string()),
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
    async fn what_cannot_be_done_here_leaves_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = folder(&dir);
        let create = async |name: &str, bytes: usize| {
            folder.create(&Name::from(name), &Bytes::from(vec![b'x'; bytes])).await.expect("no trouble")
        };
        assert_eq!(create("large", SMALL + 1).await, None);
        assert_eq!(create("just", SMALL).await, Some(Put::Created));
        assert_eq!(create("just/below", 1).await, None, "a file is no folder");
        assert_eq!(create("day/first", 1).await, Some(Put::Created));
        fs::remove_dir_all(dir.path().join("day")).expect("removed");
        assert_eq!(create("day/second", 1).await, None, "its folder was known, and is gone");
        fs::create_dir_all(dir.path().join("taken/by-a-folder")).expect("made");
        assert_eq!(create("taken/by-a-folder", 1).await, Some(Put::Exists));
        assert_eq!(files(dir.path()), ["just"]);
    }
}
