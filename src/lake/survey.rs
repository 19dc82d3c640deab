//! Counting a lake: files, rows, days, bytes, newest event, from listings and footers.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt;
use object_store::ObjectMeta;
use serde::Serialize;

use crate::batch::encode::Footer;
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::event::time::format_micros;
use crate::layout::partition::day_of_path;
use crate::layout::{Format, Layouts, QUARANTINE};
use crate::pipeline::look::{Tail, read_tail};
use crate::store::Store;

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

/// Footers that are read at a time.
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

async fn parquet(store: &Store, name: &str) -> Result<Option<Dataset>> {
    let folder = store.path(name)?;
    let files = store.list(&folder).try_filter(|m| {
        let marks = name == QUARANTINE && m.location.as_ref().contains("/_replayed/");
        std::future::ready(m.location.as_ref().ends_with(".parquet") && !marks)
    });
    let counter = files
        .map_ok(|meta| {
            let store = store.clone();
            // A task each, so that every core parses.
            let read = tokio::spawn(async move {
                // A damaged file is counted, not fatal: status is what one looks at when something is wrong.
                let tail = read_tail(&store, &meta.location, meta.size).await.ok();
                (meta, tail)
            });
            async { read.await.map_err(|e| Error::bug("reading a footer has died").source(e)) }
        })
        .try_buffer_unordered(WIDTH)
        .try_fold(Counter::default(), |mut counter, (meta, tail)| async move {
            counter.file(&meta, tail.as_ref());
            Ok(counter)
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
    fn file(&mut self, meta: &ObjectMeta, tail: Option<&Tail>) {
        let dataset = &mut self.dataset;
        let Some(tail) = tail else {
            dataset.unreadable += 1;
            return;
        };
        let footer = Footer::read(&tail.metadata);
        if footer.as_ref().is_some_and(|f| f.fence.is_some()) {
            dataset.fences += 1;
            return;
        }
        dataset.files += 1;
        dataset.bytes += meta.size;
        dataset.rows += tail.metadata.file_metadata().num_rows().unsigned_abs();
        self.days.extend(day_of_path(meta.location.as_ref()));
        self.newest = self.newest.max(footer.and_then(|f| f.span).map(|(_, newest)| newest));
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
