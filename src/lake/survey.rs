//! Counting a lake: files, rows, days, bytes, newest event, from listings and footers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::{Arc, OnceLock};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::SchemaDescPtr;
use serde::Serialize;

use crate::batch::encode::Footer;
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::event::time::format_micros;
use crate::layout::partition::day_of_path;
use crate::layout::{Format, Layouts, QUARANTINE};
use crate::store::Store;
use crate::store::tail::{decode, read_tail};

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

/// Footers that a task reads, those that are asked of a remote store at a time, and tasks at a time.
const TOGETHER: usize = 256;
const WIDTH: usize = 32;
const AT_ONCE: usize = 4;

/// Bytes that are read of the end of a file on this machine at first.
const END: u64 = 16 << 10;

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
    let schema = Arc::default();
    let counter = files
        .ready_chunks(TOGETHER)
        .map(|files| files.into_iter().collect::<Result<Vec<_>>>())
        .map_ok(|files| {
            let read = tokio::spawn(read_all(store.clone(), files, Arc::clone(&schema)));
            async { read.await.map_err(|e| Error::bug("reading footers has died").source(e))? }
        })
        .try_buffer_unordered(AT_ONCE)
        .try_fold(Counter::default(), |mut counter, files| {
            files.iter().for_each(|(meta, metadata)| counter.file(meta, metadata.as_ref()));
            std::future::ready(Ok(counter))
        })
        .await?;
    Ok(counter.finish(name))
}

/// A file, and its metadata unless it is damaged: status is what one looks at when something is wrong.
type Read = (ObjectMeta, Option<ParquetMetaData>);

/// The schema of a dataset, once a file of it was read.
type Schema = Arc<OnceLock<SchemaDescPtr>>;

async fn read_all(store: Store, files: Vec<ObjectMeta>, schema: Schema) -> Result<Vec<Read>> {
    let Some(folder) = store.folder().map(ToOwned::to_owned) else {
        let reads = stream::iter(files).map(|meta| async {
            let tail = read_tail(&store, &meta.location, meta.size).await;
            (meta, tail.ok().map(|t| t.metadata))
        });
        return Ok(reads.buffer_unordered(WIDTH).collect().await);
    };
    let read = tokio::task::spawn_blocking(move || {
        let mut end = Vec::new();
        let read = |meta: ObjectMeta| {
            let metadata = read_file(&folder.join(meta.location.as_ref()), meta.size, &schema, &mut end);
            (meta, metadata.ok())
        };
        files.into_iter().map(read).collect()
    });
    read.await.map_err(|e| Error::bug("reading footers has died").source(e))
}

/// Reads a file's metadata from this machine's disk; `end` is scratch.
fn read_file(
    path: &std::path::Path,
    size: u64,
    schema: &OnceLock<SchemaDescPtr>,
    end: &mut Vec<u8>,
) -> std::result::Result<ParquetMetaData, ParquetError> {
    let mut file = File::open(path)?;
    let mut want = END.min(size);
    loop {
        end.resize(want as usize, 0);
        file.seek(SeekFrom::Start(size - want))?;
        file.read_exact(end)?;
        // A file of another version of its layout has other columns. Then it is read with its own.
        let known = schema.get().and_then(|schema| decode(end, Some(Arc::clone(schema))).ok());
        match known.map_or_else(|| decode(end, None), Ok) {
            Err(ParquetError::NeedMoreData(more)) if (more as u64) > want && want < size => {
                want = (more as u64).min(size);
            }
            Ok(metadata) => {
                schema.get_or_init(|| metadata.file_metadata().schema_descr_ptr());
                return Ok(metadata);
            }
            failed => return failed,
        }
    }
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
    fn file(&mut self, meta: &ObjectMeta, metadata: Option<&ParquetMetaData>) {
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
        dataset.bytes += meta.size;
        dataset.rows += metadata.file_metadata().num_rows().unsigned_abs();
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
