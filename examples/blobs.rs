//! The ceiling of the archive: a bare loop of create-only puts, one for each line of an NDJSON file.
//!
//! Owns no promise: it decodes nothing, and an object that exists is an error. The store is the one that the
//! configuration of `lakehead` names, opened the same way, so that both put through the same client.
//!
//!   LAKEHEAD_DATA_LAKE__URL=./bare blobs events.ndjson --count 20000 --concurrency 64
//!
//! Prints one JSON object: blobs, bytes, seconds, blobs per second.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use clap::Parser;
use futures_util::{StreamExt, TryStreamExt, stream};
use lakehead::config::Config;
use lakehead::store::{self, Put, Store};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Puts each line of a file as an object of its own", long_about = None)]
struct Cli {
    /// NDJSON; its first COUNT lines are taken
    events: PathBuf,
    /// Objects
    #[arg(long)]
    count: usize,
    /// Puts under way at once
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// Folders that the objects are spread over
    #[arg(long, default_value_t = 30)]
    days: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let config = Config::load(None, std::env::vars())?;
    let store = store::open(&config.data_lake.location, config.limits.put_deadline)?;
    let lines = BufReader::with_capacity(1 << 20, File::open(&cli.events)?).split(b'\n').take(cli.count);
    let bodies: Vec<Bytes> = lines.map(|line| line.map(Bytes::from)).collect::<std::io::Result<_>>()?;
    let bytes: usize = bodies.iter().map(Bytes::len).sum();
    let blobs = bodies.len();

    let began = Instant::now();
    let puts = bodies.into_iter().enumerate().map(|(n, body)| {
        let day = n * cli.days / cli.count + 1;
        put(
            &store,
            format!("bare/month={:02}/day={:02}/risk.evaluated-{n:08}.json", day / 32, day % 32),
            body,
        )
    });
    stream::iter(puts).buffer_unordered(cli.concurrency).try_collect::<()>().await?;
    let seconds = began.elapsed().as_secs_f64();
    let rate = blobs as f64 / seconds;
    println!("{}", serde_json::json!({"blobs": blobs, "bytes": bytes, "seconds": seconds, "rate": rate}));
    Ok(())
}

async fn put(store: &Store, name: String, body: Bytes) -> Result<()> {
    match store.create(&store.path(&name)?, body).await? {
        Put::Created => Ok(()),
        Put::Exists => Err(format!("{name} exists: choose an empty store").into()),
    }
}
