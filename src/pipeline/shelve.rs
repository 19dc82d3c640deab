//! Putting audit blobs: create-only, and "exists" means read back and compare (rule 9).

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::land::Pause;
use super::state::Blob;
use crate::archive::{Hash, conflict_path};
use crate::error::{Error, Result};
use crate::layout::row::Identity;
use crate::store::{Put, Store};

/// Where blobs go.
#[derive(Debug, Clone)]
pub struct Shelf {
    store: Arc<Store>,
}

/// How putting a blob ended.
#[derive(Debug)]
pub enum Shelved {
    /// It is stored.
    Stored {
        /// Index of the layout.
        layout: u16,
        /// Identity of the blob.
        identity: Identity,
        /// Its size.
        bytes: usize,
        /// True if other bytes stood under its name, so that it lies beside them.
        conflict: bool,
    },
    /// The program ends and the outcome is not known.
    Abandoned {
        /// Index of the layout.
        layout: u16,
    },
}

impl Shelf {
    /// A shelf in a store.
    pub fn new(store: Store) -> Self {
        Shelf { store: Arc::new(store) }
    }

    /// Puts a blob until the outcome is known, or until the program ends.
    pub async fn put(self, blob: Blob, abandon: CancellationToken) -> Shelved {
        let layout = blob.draft.layout;
        tokio::select! {
            biased;
            shelved = self.until_known(&blob) => shelved,
            () = abandon.cancelled() => Shelved::Abandoned { layout },
        }
    }

    async fn until_known(&self, blob: &Blob) -> Shelved {
        let mut pause = Pause::default();
        let draft = &blob.draft;
        loop {
            match self.attempt(blob).await {
                Ok(conflict) => {
                    let (layout, identity, bytes) = (draft.layout, draft.identity, draft.bytes.len());
                    return Shelved::Stored { layout, identity, bytes, conflict };
                }
                Err(e) => {
                    tracing::warn!(error = %e, hint = e.way_out(), "cannot put a blob; trying again");
                    pause.wait().await;
                }
            }
        }
    }

    /// One try; true if the blob lies beside another of its name.
    async fn attempt(&self, blob: &Blob) -> Result<bool> {
        let draft = &blob.draft;
        if self.settle(&draft.path, &draft.bytes).await? {
            return Ok(false);
        }
        let beside = conflict_path(&draft.path, &Hash::of(&draft.bytes));
        tracing::error!(
            path = draft.path,
            beside,
            "a blob of other content stands under this name: storing ours beside it"
        );
        if self.settle(&beside, &draft.bytes).await? {
            return Ok(true);
        }
        Err(Error::unreachable(format!("{beside}: holds other bytes than its name says"))
            .hint("the archive was tampered with, or the store is damaged: run `lakehead audit verify`"))
    }

    /// True if these bytes stand under this name now; false if others do.
    async fn settle(&self, path: &str, bytes: &bytes::Bytes) -> Result<bool> {
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
