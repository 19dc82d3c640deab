//! Counting a lake: files, rows, days, bytes, newest event, from listings and footers.

mod local;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt;
use parquet::file::metadata::ParquetMetaData;
use serde::Serialize;

use crate::batch::encode::Footer;
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::event::time::format_micros;
use crate::layout::partition::day_of_path;
use crate::layout::{Format, Layouts, QUARANTINE};
use crate::store::Store;
use crate::store::tail::read_tail;

/// One dataset, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Days that have files.
    pub days: usize,
    /// The first of them, `YYYY-MM-DD`.
    pub first_day: Option<String>,
    /// The last of them.
    pub last_day: Option<String>,
    /// Rows, or blobs.
    pub rows: u64,
    /// Files with rows, or blobs; fences are no files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Fences between the files.
    pub fences: u64,
    /// Latest event time, ISO 8601.
    pub newest_event: Option<String>,
    /// Files that are not readable as Parquet.
    pub unreadable: u64,
}

/// A lake, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Every dataset that has files, by name.
    pub datasets: Vec<Dataset>,
    /// Distinct bodies in the quarantine that were not replayed, by reason.
    pub quarantine: BTreeMap<String, u64>,
    /// Writers that are registered.
    pub writers: usize,
}

/// Footers that are asked of a store at a time.
const WIDTH: usize = 32;

#[derive(Debug, Default)]
struct Counter {
    dataset: Dataset,
    days: BTreeSet<i32>,
    newest: Option<Micros>,
}

/// Counts every dataset of the layouts, and every other folder that looks like one.
///
/// # Errors
/// The store's.
pub async fn survey(lake: &Store, archive: &Store, audit_prefix: &str, layouts: &Layouts) -> Result<Survey> {
    let mut survey = Survey::default();
    for layout in layouts.all() {
        let found = match layout.format {
            Format::Parquet => parquet(lake, &layout.name).await?,
            Format::Blob => blobs(archive, &layout.name, audit_prefix).await?,
        };
        survey.datasets.extend(found);
    }
    survey.datasets.sort_by(|a, b| a.name.cmp(&b.name));
    survey.quarantine = super::quarantine::counts(lake).await?;
    survey.writers = lake.list_all(&lake.path(crate::pipeline::writer::FOLDER)?).await?.len();
    Ok(survey)
}

/// True for a file that is one of a dataset's. The quarantine has marks of what was replayed beside its files.
fn is_counted(name: &str, path: &str) -> bool {
    path.ends_with(".parquet") && !(name == QUARANTINE && path.contains("/_replayed/"))
}

async fn parquet(store: &Store, name: &str) -> Result<Option<Dataset>> {
    let died = |e| Error::bug("reading footers has died").source(e);
    if let Some(root) = store.folder() {
        let (folder, dataset) = (root.join(name), name.to_owned());
        let counted = tokio::task::spawn_blocking(move || local::count(&dataset, &folder)).await;
        return Ok(counted.map_err(died)??.finish(name));
    }
    let files = store.list(&store.path(name)?);
    let counter = files
        .try_filter(|m| std::future::ready(is_counted(name, m.location.as_ref())))
        .map_ok(|meta| {
            let store = store.clone();
            // A task each, so that every core parses.
            let read = tokio::spawn(async move {
                let tail = read_tail(&store, &meta.location, meta.size).await.ok();
                (meta, tail)
            });
            async move { read.await.map_err(died) }
        })
        .try_buffer_unordered(WIDTH)
        .try_fold(Counter::default(), |mut counter, (meta, tail)| {
            counter.file(meta.location.as_ref(), meta.size, tail.as_ref().map(|t| &t.metadata));
            std::future::ready(Ok(counter))
        })
        .await?;
    Ok(counter.finish(name))
}

async fn blobs(store: &Store, name: &str, prefix: &str) -> Result<Option<Dataset>> {
    let folder = store.path(prefix)?;
    let counter = store
        .list(&folder)
        .try_fold(Counter::default(), |mut counter, meta| async move {
            let path = meta.location.as_ref();
            if path.ends_with(".json") && !path.contains("/_integrity/") {
                counter.dataset.rows += 1;
                counter.dataset.files += 1;
                counter.dataset.bytes += meta.size;
                counter.days.extend(day_of_path(path));
            }
            Ok(counter)
        })
        .await?;
    Ok(counter.finish(name))
}

impl Counter {
    /// Counts a file. A damaged one has no metadata: it is counted, for status is what one looks at when something is wrong.
    fn file(&mut self, path: &str, size: u64, metadata: Option<&ParquetMetaData>) {
        let dataset = &mut self.dataset;
        let Some(metadata) = metadata else {
            dataset.unreadable += 1;
            return;
        };
        let footer = Footer::read(metadata);
        if footer.as_ref().is_some_and(|f| f.fence.is_some()) {
            dataset.fences += 1;
            return;
        }
        dataset.files += 1;
        dataset.bytes += size;
        dataset.rows += metadata.file_metadata().num_rows().unsigned_abs();
        self.days.extend(day_of_path(path));
        self.newest = self.newest.max(footer.and_then(|f| f.span).map(|(_, newest)| newest));
    }

    fn merge(&mut self, other: Counter) {
        let (all, more) = (&mut self.dataset, other.dataset);
        all.rows += more.rows;
        all.files += more.files;
        all.bytes += more.bytes;
        all.fences += more.fences;
        all.unreadable += more.unreadable;
        self.days.extend(other.days);
        self.newest = self.newest.max(other.newest);
    }

    fn finish(mut self, name: &str) -> Option<Dataset> {
        let day = |d: &i32| format_micros(i64::from(*d) * 86_400_000_000)[..10].to_owned();
        self.dataset.name = name.to_owned();
        self.dataset.days = self.days.len();
        self.dataset.first_day = self.days.first().map(day);
        self.dataset.last_day = self.days.last().map(day);
        self.dataset.newest_event = self.newest.map(format_micros);
        (self.dataset.files + self.dataset.unreadable + self.dataset.fences > 0).then_some(self.dataset)
    }
}
