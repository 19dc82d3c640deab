//! A store that is not waited for, for those who speak object_store.
//!
//! Owns the deadline of each request, of each item of a listing and of each part of what is read, and notes how puts end as
//! [`Store::create`] does. Errors stay the store's own: their kinds tell what happened.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error as StoreError, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};

use super::Store;

/// A listing that comes in one answer, and may have hundreds of pages, has so long at least.
const PAGES: Duration = Duration::from_secs(120);

/// A store with its deadlines.
#[derive(Debug)]
pub(super) struct Deadlines(pub Store);

impl Deadlines {
    async fn within<T>(&self, bytes: u64, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let deadline = self.0.deadline_for(bytes);
        tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| Err(late(deadline)))
    }

    fn each_within<T: Send + 'static>(
        &self,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let deadline = self.0.deadline;
        each_within(deadline, items, move || late(deadline))
    }
}

fn late(deadline: Duration) -> StoreError {
    let what = format!("no answer within {} s", deadline.as_secs_f64());
    StoreError::Generic { store: "store", source: io::Error::new(io::ErrorKind::TimedOut, what).into() }
}

type Items<T, E> = BoxStream<'static, std::result::Result<T, E>>;

/// The same items, and an error as the last where one takes longer.
pub(super) fn each_within<T: Send + 'static, E: Send + 'static, L: Fn() -> E + Send + 'static>(
    deadline: Duration,
    items: Items<T, E>,
    late: L,
) -> Items<T, E> {
    let next = move |(items, late): (Option<Items<T, E>>, L)| async move {
        let mut items = items?;
        match tokio::time::timeout(deadline, items.next()).await {
            Ok(item) => Some((item?, (Some(items), late))),
            Err(_) => Some((Err(late()), (None, late))),
        }
    };
    stream::unfold((Some(items), late), next).boxed()
}

impl fmt::Display for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.inner.fmt(f)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Deadlines {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        let put = self.within(bytes, self.0.inner.put_opts(path, payload, options)).await;
        match &put {
            Ok(_) => self.0.remember(None),
            // Tells nothing: a full disk answers so, too.
            Err(e) if super::is_taken(e) => {}
            Err(e) => {
                let what = format!("{}: put {path}: {e}", self.0.shown);
                self.0.remember(Some((what, Some(self.0.hint(e)))));
            }
        }
        put
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.within(0, self.0.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let mut found = self.within(0, self.0.inner.get_opts(path, options)).await?;
        found.payload = match found.payload {
            GetResultPayload::Stream(parts) => GetResultPayload::Stream(self.each_within(parts)),
            file if head => file,
            // A file is read here, for a disk may hang as well.
            file => {
                let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), Attributes::new());
                let extensions = found.extensions.clone();
                let whole = GetResult { payload: file, meta, range, attributes, extensions };
                let length = found.range.end.saturating_sub(found.range.start);
                let bytes = self.within(length, whole.bytes()).await?;
                GetResultPayload::Stream(stream::once(std::future::ready(Ok(bytes))).boxed())
            }
        };
        Ok(found)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let bytes = ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum();
        self.within(bytes, self.0.inner.get_ranges(path, ranges)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.each_within(self.0.inner.delete_stream(paths))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.each_within(self.0.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.each_within(self.0.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let pages = (self.0.deadline * 10).max(PAGES);
        let listed = tokio::time::timeout(pages, self.0.inner.list_with_delimiter(prefix)).await;
        listed.unwrap_or_else(|_| Err(late(pages)))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.within(0, self.0.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.within(0, self.0.inner.rename_opts(from, to, options)).await
    }
}
