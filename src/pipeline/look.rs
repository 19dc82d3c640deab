//! Fence, look: what redelivered rows cost (rule 4 of the delivery protocol).
//!
//! Order is everything: first our own next name is looked at, then the writers are listed, then the partition, then
//! every other writer is fenced, and only then is it looked who has the rows. Whoever was quicker than our fence is found at the fence's name, and read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Date32Type, Decimal128Type, Int64Type, TimestampMicrosecondType};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::Rule;
use super::land::{Landing, Shore};
use super::writer::Other;
use crate::batch::encode::{Claims, Footer, encode};
use crate::batch::identities::IdentitySet;
use crate::batch::rows::Rows;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::layout::columns::ColumnType;
use crate::layout::row::{Identity, IdentityHash, IdentityKey, RowReader};
use crate::store::columns::{Pieces, is_called};
use crate::store::tail::{Tail, read_metadata, read_tail};
use crate::store::{Put, Store};

/// What is known of a file; it never changes.
#[derive(Debug, Clone)]
enum Known {
    /// The identities of its rows; none in a fence.
    Rows(Arc<IdentitySet>),
    /// The bloom filters of its ids, one for each row group, and their bytes.
    Filters(Arc<Vec<Sbbf>>, usize),
    /// It is a fence that claims everything.
    Closed,
}

impl Known {
    /// Bytes that it takes, and its place in the map.
    fn weight(&self) -> usize {
        128 + match self {
            Known::Rows(rows) => rows.len() * 2 * size_of::<Identity>(),
            Known::Filters(_, bytes) => *bytes,
            Known::Closed => 0,
        }
    }
}

/// What is known of files that were looked into, bounded by its memory.
#[derive(Debug, Default)]
pub struct Files {
    known: Mutex<(HashMap<Path, Known>, usize)>,
}

/// Requests of one look that may be under way at once: there is a fence for every registered writer, and the end of every
/// file of the partition is read.
pub(super) const AT_ONCE: usize = 16;

/// Bytes that an identity takes in a set of them, which may just have doubled.
const FOUND: u64 = 2 * (size_of::<Identity>() as u64 + 1);

/// Most bytes that are remembered of files.
const REMEMBERED: usize = 16 << 20;

impl Files {
    fn get(&self, path: &Path) -> Option<Known> {
        self.lock().0.get(path).cloned()
    }

    fn put(&self, path: &Path, known: Known) {
        let mut files = self.lock();
        if files.1 + known.weight() > REMEMBERED {
            *files = Default::default();
        }
        files.1 += known.weight();
        if let Some(before) = files.0.insert(path.clone(), known) {
            files.1 -= before.weight();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (HashMap<Path, Known>, usize)> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Found {
    /// Rows of the landing that some file of the partition holds.
    pub present: IdentitySet,
    /// What fences claim that stood at our own names before we looked. They bind every other batch, but not the one
    /// that looked: who made them has put its rows already, which the look has seen, or will find our own fence.
    pub passed: Vec<Claims>,
    /// Our next name that may be free.
    pub seq: u32,
}

/// A file of the partition, and its size where that was listed: then its end is read without asking for it first.
type Listed = (Path, Option<u64>);

/// A writer's highest sequence number in the partition, and the size of what has it.
type Last = (u32, u64);

/// Fences every other writer out of the landing's partition, and returns which of its rows some file there holds. `again`
/// after a try that failed: then the files are read before the fences as well, so that what cannot be read does not leave
/// a fence at each try.
///
/// # Errors
/// The store's, or a file that cannot be read; everything may be tried again.
pub async fn fence_and_look(shore: &Shore, landing: &Landing, again: bool) -> Result<Found> {
    let layout = Arc::clone(shore.layouts.get(landing.partition.layout));
    let mut found = Found { seq: landing.seq, ..Found::default() };
    if shore.without != Some(Rule::Pass) {
        pass_fences(shore, landing, &mut found).await?;
    }
    let others = shore.registry.others(&layout.name).await?;
    let folder = shore.store.path(&format!("{}/{}", layout.name, landing.partition.path(&layout)))?;
    let mut files: Vec<Listed> = Vec::new();
    let mut last: BTreeMap<String, Last> = BTreeMap::new();
    for meta in shore.store.list_all(&folder).await? {
        // Only what lies in the partition itself; deeper folders are not ours.
        let Some(name) =
            meta.location.filename().filter(|_| meta.location.parts_count() == folder.parts_count() + 1)
        else {
            continue;
        };
        if let Some((writer, seq)) = parse_name(name) {
            let highest = last.entry(writer.to_owned()).or_insert((seq, meta.size));
            *highest = (*highest).max((seq, meta.size));
        }
        if name.ends_with(".parquet") && !name.starts_with('_') {
            files.push((meta.location, Some(meta.size)));
        }
    }
    if let Some(rule) = shore.without {
        found.present = carelessly(rule, shore, landing, &layout, others, files, &last).await?;
        return Ok(found);
    }
    if again {
        look_into_all(shore, landing, &layout, &files).await?;
    }
    fence_all(shore, landing, &layout, others, &last, &mut files).await?;
    found.present = look_into_all(shore, landing, &layout, &files).await?;
    Ok(found)
}

/// Reads what stands at our own names though we have not put it. Met one by one, each would send the landing's rows back
/// to the queue; with three writers that makes more fences than are met, and nobody would ever land them.
///
/// Must come before the writers are listed: who has made a fence that we pass must be among those that we fence.
async fn pass_fences(shore: &Shore, landing: &Landing, found: &mut Found) -> Result<()> {
    loop {
        let path = shore.file_path(&landing.partition, shore.registry.writer(), found.seq)?;
        let Some(footer) = read_footer(&shore.store, &path).await? else { return Ok(()) };
        found.passed.extend(footer.fence);
        found.seq += 1;
    }
}

/// What [`fence_and_look`] does where a simulation wants it without one of its rules.
async fn carelessly(
    rule: Rule,
    shore: &Shore,
    landing: &Landing,
    layout: &Arc<Layout>,
    mut others: Vec<Other>,
    mut files: Vec<Listed>,
    last: &BTreeMap<String, Last>,
) -> Result<IdentitySet> {
    match rule {
        Rule::Fences => others.clear(),
        Rule::Register => {
            let there = last.keys().filter(|w| *w != shore.registry.writer());
            others = there.map(|w| Other { writer: w.clone(), silent: false }).collect();
        }
        Rule::Lookup => files.clear(),
        Rule::Order => {
            let present = look_into_all(shore, landing, layout, &files).await?;
            fence_all(shore, landing, layout, others, last, &mut Vec::new()).await?;
            return Ok(present);
        }
        Rule::OwnName
        | Rule::AllBatches
        | Rule::Remember
        | Rule::Refused
        | Rule::Pass
        | Rule::Stored
        | Rule::Budget => {}
    }
    fence_all(shore, landing, layout, others, last, &mut files).await?;
    look_into_all(shore, landing, layout, &files).await
}

/// Fences the other writers; `last` is what has their highest sequence numbers, as far as they have files.
async fn fence_all(
    shore: &Shore,
    landing: &Landing,
    layout: &Arc<Layout>,
    others: Vec<Other>,
    last: &BTreeMap<String, Last>,
    files: &mut Vec<Listed>,
) -> Result<()> {
    let mut claims: Vec<u64> = landing.sought().map(|(rows, at)| rows.claim_of(layout, at)).collect();
    claims.sort_unstable();
    let mut fences = Vec::new();
    for other in &others {
        let last = last.get(&other.writer).copied();
        let claims = if other.silent { Claims::All } else { Claims::Some(claims.clone()) };
        fences.push(fence(shore, landing, layout, &other.writer, last, claims));
    }
    let met: Vec<Vec<Path>> = stream::iter(fences).buffer_unordered(AT_ONCE).try_collect().await?;
    files.extend(met.into_iter().flatten().map(|path| (path, None)));
    Ok(())
}

async fn look_into_all(
    shore: &Shore,
    landing: &Landing,
    layout: &Arc<Layout>,
    files: &[Listed],
) -> Result<IdentitySet> {
    let ruled: Vec<_> = files.iter().map(|file| rule_out(shore, landing, layout, file)).collect();
    let ruled: Vec<bool> = stream::iter(ruled).buffered(AT_ONCE).try_collect().await?;
    let mut present = IdentitySet::default();
    // One at a time: whole columns are read.
    for (file, _) in files.iter().zip(ruled).filter(|(_, out)| !out) {
        look_into(shore, landing, layout, file, &mut present).await?;
    }
    Ok(present)
}

/// Creates a fence at another writer's next name; returns the files that stood there first.
async fn fence(
    shore: &Shore,
    landing: &Landing,
    layout: &Arc<Layout>,
    writer: &str,
    last: Option<Last>,
    claims: Claims,
) -> Result<Vec<Path>> {
    let path = |seq| shore.file_path(&landing.partition, writer, seq);
    if let Some((seq, size)) = last
        && is_closed(shore, &(path(seq)?, Some(size))).await?
    {
        return Ok(Vec::new());
    }
    let footer = Footer {
        layout: layout.name.clone(),
        layout_version: layout.version,
        rules: Some(layout.rules()),
        batch: format!("fence-{}", shore.clock.fresh_id()),
        rolled: None,
        rows: 0,
        span: None,
        fence: Some(claims),
    };
    let bytes = encode(layout, &mut Rows::default(), &footer)?;
    let (mut seq, mut files) = (last.map_or(0, |(seq, _)| seq + 1), Vec::new());
    loop {
        let at = path(seq)?;
        if shore.store.create(&at, bytes.clone()).await? == Put::Created {
            super::meters::fence_created();
            return Ok(files);
        }
        match read_footer(&shore.store, &at).await? {
            // Our own, whose answer was lost.
            Some(there) if there.batch == footer.batch => return Ok(files),
            Some(there) if there.fence == Some(Claims::All) => return Ok(files),
            Some(there) if there.fence.is_some() => {}
            Some(_) => files.push(at),
            None => return Err(Error::unreachable(format!("{at}: exists, and is not there"))),
        }
        seq += 1;
    }
}

async fn is_closed(shore: &Shore, file: &Listed) -> Result<bool> {
    if let Some(known) = shore.files.get(&file.0) {
        return Ok(matches!(known, Known::Closed));
    }
    let Some(tail) = read_end(&shore.store, file).await? else { return Ok(false) };
    let closed = Footer::read(&tail.metadata).is_some_and(|f| f.fence == Some(Claims::All));
    if closed {
        shore.files.put(&file.0, Known::Closed);
    }
    Ok(closed)
}

/// Reads a listed file's metadata; `None` if it is not there any more.
async fn read_end(store: &Store, (path, size): &Listed) -> Result<Option<Tail>> {
    if let Some(size) = size
        && let Ok(tail) = read_tail(store, path, *size).await
    {
        return Ok(Some(tail));
    }
    read_metadata(store, path).await
}

/// A file's writer and sequence number, from its name.
pub fn parse_name(name: &str) -> Option<(&str, u32)> {
    let (writer, seq) = name.strip_suffix(".parquet")?.rsplit_once('-')?;
    (seq.len() >= 6).then(|| seq.parse().ok().map(|s| (writer, s)))?
}

/// The footer of a file; `None` if there is no such file. A file that is not ours has an empty batch id.
///
/// # Errors
/// The store's.
pub async fn read_footer(store: &Store, path: &Path) -> Result<Option<Footer>> {
    Ok(read_metadata(store, path).await?.map(|m| {
        Footer::read(&m.metadata).unwrap_or_else(|| Footer {
            layout: String::new(),
            layout_version: 0,
            rules: None,
            batch: String::new(),
            rolled: None,
            rows: m.metadata.file_metadata().num_rows().unsigned_abs(),
            span: None,
            fence: None,
        })
    }))
}

/// True if the file at `path` holds no row of the landing for certain, by what its end says.
async fn rule_out(shore: &Shore, landing: &Landing, layout: &Layout, file: &Listed) -> Result<bool> {
    let path = &file.0;
    let filters = match shore.files.get(path) {
        Some(Known::Rows(_)) => return Ok(false),
        Some(Known::Closed) => return Ok(true),
        Some(Known::Filters(filters, _)) => filters,
        None => {
            // A file that retention took between the list and now held nothing that is there.
            let Some(tail) = read_end(&shore.store, file).await? else { return Ok(true) };
            let fence = Footer::read(&tail.metadata).and_then(|f| f.fence);
            if fence.is_some() || tail.metadata.file_metadata().num_rows() == 0 {
                let closed = fence == Some(Claims::All);
                let known = if closed { Known::Closed } else { Known::Rows(Arc::default()) };
                shore.files.put(path, known);
                return Ok(true);
            }
            let Some((filters, bytes)) = read_filters(shore, layout, path, &tail).await? else {
                return Ok(false);
            };
            let filters = Arc::new(filters);
            shore.files.put(path, Known::Filters(Arc::clone(&filters), bytes));
            filters
        }
    };
    let Some(column) = layout.column("eventId") else { return Ok(false) };
    let mut ids = landing.sought().map(|(rows, at)| cell(layout, rows.row(at), column));
    // A filter knows nothing of rows without an id.
    let may_hold = |id: Option<&[u8]>| match id.map(std::str::from_utf8) {
        Some(Ok(id)) => filters.iter().any(|f| f.check(&id)),
        _ => true,
    };
    Ok(!ids.any(may_hold))
}

/// Adds to `present` the identities of the landing's rows that the file holds.
async fn look_into(
    shore: &Shore,
    landing: &Landing,
    layout: &Arc<Layout>,
    file: &Listed,
    present: &mut IdentitySet,
) -> Result<()> {
    let path = &file.0;
    let known = match shore.files.get(path) {
        Some(Known::Rows(known)) => known,
        _ => {
            let Some(tail) = read_end(&shore.store, file).await? else { return Ok(()) };
            match read_identities(shore, landing, layout, path, tail).await {
                // Retention took it between its end and its columns.
                Err(_) if shore.store.head(path).await?.is_none() => return Ok(()),
                read => read?,
            }
        }
    };
    present.extend(landing.sought().map(|(_, at)| at.identity()).filter(|i| known.contains(i)));
    Ok(())
}

async fn read_identities(
    shore: &Shore,
    landing: &Landing,
    layout: &Arc<Layout>,
    path: &Path,
    tail: Tail,
) -> Result<Arc<IdentitySet>> {
    let places = tail.places(path, |name| layout.is_identity(name))?;
    let rows = tail.metadata.file_metadata().num_rows().unsigned_abs();
    let takes =
        places.iter().map(|p| p.end - p.start).sum::<u64>().saturating_add(rows.saturating_mul(FOUND));
    // A damaged footer may say anything.
    let most = shore.budget.limit();
    let charge = shore.budget.charge(usize::try_from(takes).map_or(most, |takes| takes.min(most)));
    let columns = tail.pieces(&shore.store, path, places).await?;
    let (key, layout, value) = (shore.key, Arc::clone(layout), landing.partition.value.clone());
    let metadata = Arc::new(tail.metadata);
    let read = shore.cpu.run(move || identities(&layout, columns, metadata, key, value.as_deref())).await;
    drop(charge);
    let found = match read {
        Some(Ok(found)) => Arc::new(found),
        Some(Err(e)) => {
            return Err(Error::unreachable(format!("{path}: cannot read its identities")).source(e).hint(
                "if another program wrote it, move it out of the dataset: redelivered rows wait for it",
            ));
        }
        None => return Err(Error::unreachable(format!("{path}: its identities were not read to the end"))),
    };
    shore.files.put(path, Known::Rows(Arc::clone(&found)));
    Ok(found)
}

/// The bloom filters of `eventId` and their bytes; none where they could not rule a row out.
async fn read_filters(
    shore: &Shore,
    layout: &Layout,
    path: &Path,
    tail: &Tail,
) -> Result<Option<(Vec<Sbbf>, usize)>> {
    if !layout.column("eventId").is_some_and(|c| layout.identity.contains(&c)) {
        return Ok(None);
    }
    let mut places = Vec::new();
    for group in tail.metadata.row_groups() {
        let chunk = group.columns().iter().find(|c| c.column_path().string() == "eventId");
        let place = chunk.and_then(|c| c.bloom_filter_offset().zip(c.bloom_filter_length()));
        let Some((from, length)) = place.and_then(|(o, l)| u64::try_from(o).ok().zip(u64::try_from(l).ok()))
        else {
            return Ok(None);
        };
        places.push(from..from + length);
    }
    let (mut filters, mut read) = (Vec::new(), 0);
    for bytes in tail.ranges(&shore.store, path, &places).await? {
        let Ok(filter) = Sbbf::from_bytes(&bytes) else { return Ok(None) };
        filters.push(filter);
        read += bytes.len();
    }
    Ok(Some((filters, read)))
}

fn cell<'r>(layout: &Layout, row: &'r [u8], column: usize) -> Option<&'r [u8]> {
    let mut reader = RowReader::new(row, layout.columns.len());
    layout.columns.iter().take(column + 1).map(|c| reader.next(&c.kind)).last().flatten()
}

/// The identities of all rows of a file. `value` is that of the partition column, which the file does not repeat.
///
/// # Errors
/// A file that is damaged, or has other columns than its layout.
fn identities(
    layout: &Layout,
    columns: Pieces,
    metadata: Arc<ParquetMetaData>,
    key: IdentityKey,
    value: Option<&str>,
) -> std::result::Result<IdentitySet, ParquetError> {
    let stored = metadata.file_metadata().schema_descr_ptr();
    let wanted =
        stored.columns().iter().enumerate().filter(|(_, c)| is_called(c.path(), |n| layout.is_identity(n)));
    let mask = ProjectionMask::leaves(&stored, wanted.map(|(leaf, _)| leaf));
    let metadata = ArrowReaderMetadata::try_new(metadata, Default::default())?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(columns, metadata);
    let mut found = IdentitySet::default();
    for batch in builder.with_projection(mask).with_batch_size(8192).build()? {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let mut hash = IdentityHash::new(key);
            for i in &layout.identity {
                let column = &layout.columns[*i];
                if Some(*i) == layout.partition_column {
                    hash.add(value.map(str::as_bytes));
                    continue;
                }
                let Some(array) = batch.column_by_name(&column.name).filter(|a| a.is_valid(row)) else {
                    hash.add(None);
                    continue;
                };
                add(&mut hash, &column.kind, array, row).ok_or_else(|| {
                    let (name, word) = (&column.name, column.kind.word());
                    ParquetError::General(format!("column {name} holds no values of {word}"))
                })?;
            }
            found.insert(hash.finish());
        }
    }
    Ok(found)
}

/// Adds a value of a column to a row's identity; none if the array is of another type.
fn add(hash: &mut IdentityHash, kind: &ColumnType, array: &dyn Array, row: usize) -> Option<()> {
    match kind {
        ColumnType::Timestamp => {
            hash.add(Some(&array.as_primitive_opt::<TimestampMicrosecondType>()?.value(row).to_le_bytes()));
        }
        ColumnType::Int => hash.add(Some(&array.as_primitive_opt::<Int64Type>()?.value(row).to_le_bytes())),
        ColumnType::Date => hash.add(Some(&array.as_primitive_opt::<Date32Type>()?.value(row).to_le_bytes())),
        ColumnType::Money => {
            hash.add(Some(&array.as_primitive_opt::<Decimal128Type>()?.value(row).to_le_bytes()));
        }
        ColumnType::Bool => hash.add(Some(&[u8::from(array.as_boolean_opt()?.value(row))])),
        ColumnType::Binary => hash.add(Some(array.as_binary_opt::<i32>()?.value(row))),
        _ => hash.add(Some(array.as_string_opt::<i32>()?.value(row).as_bytes())),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::event::catalog::Catalog;
    use crate::event::json::{Limits, Scanner};
    use crate::event::{Event, Transport};
    use crate::layout::Layouts;
    use crate::layout::extract::Scratch;

    fn body(n: u32, random: u128) -> String {
        format!(
            r#"{{"id":"e{n}","type":"risk.evaluated","timestamp":"2026-01-02T03:04:05Z","tenantId":"t{}",
                "data":{{"opportunityId":"o","riskScore":0.5,"categoryScores":{{"a":"{random:032x}"}}}}}}"#,
            n % 7
        )
    }

    #[tokio::test]
    async fn identities_are_read_without_the_other_columns() {
        const ROWS: u32 = 8_000;
        let layouts = Layouts::load(&Catalog::builtin(), None, &[]).expect("layouts");
        let layout = layouts.named("risk_evaluations").expect("layout");
        let (key, mut random) = (IdentityKey(1, 2), StdRng::seed_from_u64(1));
        let (mut scanner, mut scratch) = (Scanner::default(), Scratch::default());
        let (mut rows, mut expected) = (Rows::default(), IdentitySet::default());
        for body in (0..ROWS).map(|n| body(n, random.random())) {
            let document = scanner.scan(body.as_bytes(), Limits::default()).expect("json");
            let event = Event::decode(body.as_bytes(), document.root(), Transport::default(), |_| None);
            let mut row = Vec::new();
            let done =
                layout.extract(&event.expect("event"), None, key, &mut scratch, &mut row).expect("row");
            rows.push(&row, done.identity, 0);
            expected.insert(done.identity);
        }
        let footer = Footer {
            layout: layout.name.clone(),
            layout_version: layout.version,
            rules: None,
            batch: "b".into(),
            rolled: None,
            rows: u64::from(ROWS),
            span: rows.span(),
            fence: None,
        };
        let (store, path) = (Store::memory(), Path::from("a.parquet"));
        store.create(&path, encode(layout, &mut rows, &footer).expect("encodes")).await.expect("put");
        let tail = read_metadata(&store, &path).await.expect("read").expect("there");
        let places = tail.places(&path, |name| layout.is_identity(name)).expect("within the file");
        let read: u64 = places.iter().map(|p| p.end - p.start).sum();
        assert!(tail.size > 128 << 10 && read < tail.size / 2, "{read} of {}", tail.size);
        let pieces = tail.pieces(&store, &path, places).await.expect("read");
        let metadata = Arc::new(tail.metadata);
        let found = identities(layout, pieces.clone(), Arc::clone(&metadata), key, None);
        assert_eq!(found.expect("identities"), expected);
        let none = Pieces::default();
        assert!(identities(layout, none, metadata, key, None).is_err(), "a column that was not read");
    }

    #[tokio::test]
    async fn columns_of_another_program_are_an_error() {
        use arrow::array::{ArrayRef, Int64Array, StringArray};
        use arrow::record_batch::RecordBatch;
        use parquet::arrow::ArrowWriter;

        let layouts = Layouts::load(&Catalog::builtin(), None, &[]).expect("layouts");
        let layout = layouts.named("risk_evaluations").expect("layout");
        let times: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let ids: ArrayRef = Arc::new(StringArray::from(vec!["e1"]));
        let batch = RecordBatch::try_from_iter([("eventTime", times), ("eventId", ids)]).expect("a batch");
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        let (store, path) = (Store::memory(), Path::from("a.parquet"));
        store.create(&path, writer.into_inner().expect("a file").into()).await.expect("put");
        let tail = read_metadata(&store, &path).await.expect("read").expect("there");
        let places = tail.places(&path, |name| name.starts_with("event")).expect("within the file");
        let pieces = tail.pieces(&store, &path, places).await.expect("read");
        let found = identities(layout, pieces, Arc::new(tail.metadata), IdentityKey(1, 2), None);
        let said = found.expect_err("eventTime is no time").to_string();
        assert!(said.contains("column eventTime holds no values of timestamp"), "{said}");
    }

    #[test]
    fn names_are_read_from_the_right() {
        assert_eq!(parse_name("host_1-01jx-000012.parquet"), Some(("host_1-01jx", 12)));
        assert_eq!(parse_name("a-1000000.parquet"), Some(("a", 1_000_000)));
        assert_eq!(parse_name("a-12.parquet"), None);
        assert_eq!(parse_name("part-0.snappy.parquet"), None);
    }
}
