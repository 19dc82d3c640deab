//! A lake as tests look at it: a folder of one's own, the binary run in it, and every row of a dataset by column.
// Each test binary compiles this module and uses its own part of it.
#![allow(dead_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use lakehead::cli::Backfill;
use lakehead::command::backfill::{self, Outcome};
use lakehead::command::setup::Setup;
use lakehead::config::Config;
use lakehead::event::time::format_micros;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use tempfile::TempDir;

/// A row, and the day of its folder as `YYYY-MM-DD`.
pub type Row = (String, Map<String, Value>);

/// A folder with a lake in `lake/`.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().expect("a folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, content).expect("written");
        path.display().to_string()
    }

    /// The set-up of a configuration file in this folder, or of the defaults, with further keys from variables.
    pub fn setup(&self, config: Option<&str>, variables: &[(&str, &str)]) -> Setup {
        let url = format!("file://{}", self.path("lake").display());
        let all = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let env = all.chain([("LAKEHEAD_DATA_LAKE__URL".to_owned(), url)]);
        let path = config.map(|name| self.path(name));
        Setup::new(Config::load(path.as_deref(), env).expect("a good configuration")).expect("good layouts")
    }

    /// Runs the binary in this folder.
    pub fn lakehead(&self, args: &[&str]) -> Ran {
        self.lakehead_with(args, &[], "")
    }

    pub fn lakehead_with(&self, args: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lakehead"));
        command.args(args).current_dir(self.dir.path()).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("piped");
        // A command that reads nothing may be gone already.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
        drop(stdin);
        Ran(child.wait_with_output().expect("it ends"))
    }

    /// All rows of a dataset, file by file.
    pub fn rows(&self, dataset: &str) -> Vec<Row> {
        let mut rows = Vec::new();
        for file in self.files(dataset, "parquet") {
            let day = day(&file);
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).expect("opens"));
            for batch in reader.expect("Parquet").build().expect("a reader") {
                let batch = batch.expect("a batch");
                rows.extend((0..batch.num_rows()).map(|row| (day.clone(), values(&batch, row))));
            }
        }
        rows
    }

    /// The files below a folder of the lake, sorted; those in folders that begin with `_` only if asked for.
    pub fn files(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.path("lake").join(folder), ending, &mut found);
        found.sort();
        found
    }
}

/// What a run of the binary came to.
pub struct Ran(pub Output);

impl Ran {
    pub fn code(&self) -> i32 {
        self.0.status.code().expect("not killed")
    }

    pub fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).expect("text")
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Stdout of a run that went well.
    pub fn good(self) -> String {
        assert_eq!(self.code(), 0, "{}", self.err());
        self.out()
    }
}

/// Lands files as the configured consumers would.
pub async fn land(setup: &Setup, inputs: &[String]) -> Outcome {
    let request = Backfill {
        layout: Vec::new(),
        shard: None,
        from: None,
        to: None,
        dry_run: false,
        skip_existing: false,
        fail_on_quarantine: false,
        json: false,
        inputs: inputs.to_vec(),
    };
    backfill::run(setup, &request).await.expect("a backfill")
}

fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, ending, found);
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
}

/// The day that the folders of a path say.
pub fn day(path: &Path) -> String {
    let text = path.display().to_string();
    let part =
        |name: &str| text.split('/').find_map(|s| s.strip_prefix(name)).expect("a partition").to_owned();
    format!("{}-{}-{}", part("year="), part("month="), part("day="))
}

fn values(batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let schema = batch.schema();
    let named = schema.fields().iter().zip(batch.columns());
    named.map(|(field, column)| (field.name().clone(), value(column, row))).collect()
}

fn value(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Binary => String::from_utf8_lossy(column.as_binary::<i32>().value(row)).as_ref().into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Timestamp(..) => {
            format_micros(column.as_primitive::<TimestampMicrosecondType>().value(row)).into()
        }
        other => panic!("a column of {other}"),
    }
}
