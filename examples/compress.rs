//! A floor for writing Parquet: the pages of finished files, compressed again and nothing else, on one core.
//!
//!   compress FOLDER
//!
//! Reads every `.parquet` file below FOLDER, a file at a time, decompresses its pages, and then compresses each of them
//! with zstd at the level that Lakehead writes with. Prints one JSON object: files, pages, bytes, compressed bytes, and
//! the seconds that compressing took.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parquet::basic::ZstdLevel;
use parquet::file::reader::{FileReader, SerializedFileReader};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Default)]
struct Done {
    files: u64,
    pages: u64,
    bytes: u64,
    compressed: u64,
    took: Duration,
}

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).ok_or("usage: compress FOLDER")?;
    let mut compressor = zstd::bulk::Compressor::new(ZstdLevel::default().compression_level())?;
    let mut done = Done::default();
    for path in files(Path::new(&folder))? {
        let pages = pages(&path)?;
        let largest = pages.iter().map(|p| p.len()).max().unwrap_or_default();
        let mut room = vec![0; zstd::zstd_safe::compress_bound(largest)];
        let began = Instant::now();
        for page in &pages {
            done.compressed += compressor.compress_to_buffer(page, &mut room)? as u64;
        }
        done.took += began.elapsed();
        done.files += 1;
        done.pages += pages.len() as u64;
        done.bytes += pages.iter().map(|p| p.len() as u64).sum::<u64>();
    }
    let Done { files, pages, bytes, compressed, took } = done;
    let seconds = took.as_secs_f64();
    let told = serde_json::json!({
        "files": files, "pages": pages, "bytes": bytes, "compressed": compressed, "seconds": seconds
    });
    println!("{told}");
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "parquet") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn pages(path: &Path) -> Result<Vec<bytes::Bytes>> {
    let file = SerializedFileReader::new(File::open(path)?)?;
    let mut pages = Vec::new();
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        for column in 0..group.num_columns() {
            let mut reader = group.get_column_page_reader(column)?;
            while let Some(page) = reader.get_next_page()? {
                pages.push(page.buffer().clone());
            }
        }
    }
    Ok(pages)
}
