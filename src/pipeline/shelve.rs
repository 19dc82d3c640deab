//! Putting audit blobs: create-only, and "exists" means read back and compare (rule 9).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::attest::Token;
use super::delivery::BlobDraft;
use super::land::Pause;
use super::state::Blob;
use crate::archive::{Hash, conflict_path};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::layout::row::Identity;
use crate::store::{Put, Store};

/// An empty object, the same for ever, that tells whether a store takes puts: an archive may be unable to delete others.
const PROBE: &str = "_lakehead/probes/put";

/// Where blobs go.
#[derive(Debug, Clone)]
pub struct Shelf {
    store: Arc<Store>,
    /// True while the last put that is known of has failed, or none is known of.
    refused: Arc<AtomicBool>,
}

/// A blob that is stored.
#[derive(Debug)]
pub struct Stored {
    /// Index of the layout.
    pub layout: u16,
    /// Identity of the blob.
    pub identity: Identity,
    /// Its size.
    pub bytes: usize,
    /// Where it lies, below the store's root.
    pub path: String,
    /// The name that was taken by other bytes, so that it lies beside them.
    pub conflict_of: Option<String>,
    /// Its SHA-256.
    pub sha256: Hash,
    /// Event time.
    pub time: Micros,
    /// Tenant.
    pub tenant: Option<String>,
}

impl Stored {
    /// What settles it.
    pub fn token(&self) -> Token {
        Token { layout: self.layout, identity: self.identity, bytes: self.bytes, time: self.time }
    }
}

/// How putting a blob ended.
#[derive(Debug)]
pub enum Shelved {
    /// It is stored.
    Stored(Box<Stored>),
    /// The program ends and the outcome is not known.
    Abandoned(u16),
}

impl Shelf {
    /// A shelf in a store.
    pub fn new(store: Store) -> Self {
        Shelf { store: Arc::new(store), refused: Arc::default() }
    }

    /// The same, in a store that has taken nothing yet: it is asked with a put before anybody relies on it.
    pub fn unproven(self) -> Self {
        self.refused.store(true, Ordering::Relaxed);
        self
    }

    /// True while the last put that is known of has failed: the store is to be asked whether it takes puts.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// True if the store takes puts, as far as is known: one that refused the last blob is asked with a put.
    pub async fn takes_puts(&self) -> bool {
        if !self.is_refused() {
            return true;
        }
        let probe = match self.store.path(PROBE) {
            Ok(path) => self.store.probe(&path).await,
            Err(e) => Err(e),
        };
        let taken =
            probe.inspect_err(|e| tracing::warn!(error = %e, "the archive's store takes no puts")).is_ok();
        self.refused.store(!taken, Ordering::Relaxed);
        taken
    }

    /// Puts a blob until the outcome is known, or until the program ends.
    pub async fn put(self, blob: Blob, abandon: CancellationToken) -> Shelved {
        tokio::select! {
            biased;
            stored = self.until_known(&blob.draft) => Shelved::Stored(Box::new(stored)),
            () = abandon.cancelled() => Shelved::Abandoned(blob.draft.layout),
        }
    }

    async fn until_known(&self, draft: &BlobDraft) -> Stored {
        let sha256 = Hash::of(&draft.bytes);
        let mut pause = Pause::default();
        loop {
            match self.attempt(draft, &sha256).await {
                Ok((path, conflict_of)) => {
                    self.refused.store(false, Ordering::Relaxed);
                    return Stored {
                        layout: draft.layout,
                        identity: draft.identity,
                        bytes: draft.bytes.len(),
                        path,
                        conflict_of,
                        sha256,
                        time: draft.time,
                        tenant: draft.tenant.clone(),
                    };
                }
                Err(e) => {
                    self.refused.store(true, Ordering::Relaxed);
                    tracing::warn!(error = %e, hint = e.way_out(), "cannot put a blob; trying again");
                    pause.wait().await;
                }
            }
        }
    }

    /// One try; the name under which the blob lies, and the one that was taken if it lies beside another.
    async fn attempt(&self, draft: &BlobDraft, sha256: &Hash) -> Result<(String, Option<String>)> {
        if self.settle(&draft.path, &draft.bytes).await? {
            return Ok((draft.path.clone(), None));
        }
        let beside = conflict_path(&draft.path, sha256);
        tracing::error!(
            path = draft.path,
            beside,
            "a blob of other content has this name: storing ours beside it"
        );
        if self.settle(&beside, &draft.bytes).await? {
            return Ok((beside, Some(draft.path.clone())));
        }
        Err(Error::unreachable(format!("{beside}: holds other bytes than its name says"))
            .hint("the archive was tampered with, or the store is damaged: run `lakehead audit verify`"))
    }

    /// True if these bytes stand under this name now; false if others do.
    async fn settle(&self, path: &str, bytes: &Bytes) -> Result<bool> {
        let at = self.store.path(path)?;
        if self.store.create(&at, bytes.clone()).await? == Put::Created {
            return Ok(true);
        }
        match self.store.get(&at).await? {
            Some(there) => Ok(there == *bytes),
            None => Err(Error::unreachable(format!("{at}: exists, and is not there"))),
        }
    }
}
