//! An object store that keeps its two promises, create-only and list-after-write, and no other.
//!
//! A request has its effect at one moment and is answered at another. In between the store may lose the answer, say
//! that a create found its own object, hang for ever, or have the effect minutes after the caller gave up.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

use super::world::{Shared, World};

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    at: u64,
    version: u64,
}

/// What the store holds.
#[derive(Debug, Default)]
pub struct Objects {
    all: BTreeMap<String, Object>,
    writes: u64,
}

/// The first moment of every simulation, in seconds since the epoch: 2026-03-02T23:00:00Z.
pub const EPOCH: i64 = 1_772_492_400;

#[derive(Debug, Clone)]
enum Op {
    Create(String, Bytes),
    Overwrite(String, Bytes),
    Get(String),
    List(String),
    Delete(String),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Create(path, bytes) => write!(f, "create {path} ({} bytes)", bytes.len()),
            Op::Overwrite(path, _) => write!(f, "overwrite {path}"),
            Op::Get(path) => write!(f, "get {path}"),
            Op::List(folder) => write!(f, "list {folder}"),
            Op::Delete(path) => write!(f, "delete {path}"),
        }
    }
}

#[derive(Debug)]
enum Answer {
    Done,
    Object(Bytes, ObjectMeta),
    Listing(Vec<ObjectMeta>),
}

type Reply = oneshot::Sender<Result<Answer>>;

fn broken(what: &str) -> Error {
    Error::Generic { store: "faulty", source: what.to_owned().into() }
}

fn meta(path: &str, object: &Object) -> ObjectMeta {
    let at = DateTime::from_timestamp_millis(EPOCH * 1000 + object.at as i64).expect("a time");
    ObjectMeta {
        location: Path::parse(path).expect("a path"),
        last_modified: at,
        size: object.bytes.len() as u64,
        e_tag: Some(object.version.to_string()),
        version: None,
    }
}

impl World {
    fn effect(&mut self, op: &Op) -> Result<Answer> {
        let now = self.now;
        if !matches!(op, Op::Get(_) | Op::List(_)) {
            self.note(format_args!("store: {op}"));
        }
        match op {
            Op::Create(path, bytes) => {
                if self.objects.all.contains_key(path) {
                    let source = "it exists".into();
                    return Err(Error::AlreadyExists { path: path.clone(), source });
                }
                self.write(path, bytes);
                let held = self.ledger.committed(path, bytes, now);
                self.note(format_args!("store: {path} holds {held:?}"));
                Ok(Answer::Done)
            }
            Op::Overwrite(path, bytes) => {
                self.write(path, bytes);
                Ok(Answer::Done)
            }
            Op::Delete(path) => {
                self.objects.all.remove(path);
                Ok(Answer::Done)
            }
            Op::Get(path) => match self.objects.all.get(path) {
                Some(object) => Ok(Answer::Object(object.bytes.clone(), meta(path, object))),
                None => Err(Error::NotFound { path: path.clone(), source: format!("at {now}").into() }),
            },
            Op::List(folder) => {
                let below = format!("{folder}/");
                let found = self.objects.all.range(below.clone()..);
                let found = found.take_while(|(path, _)| path.starts_with(&below));
                Ok(Answer::Listing(found.map(|(path, object)| meta(path, object)).collect()))
            }
        }
    }

    fn write(&mut self, path: &str, bytes: &Bytes) {
        self.objects.writes += 1;
        let object = Object { bytes: bytes.clone(), at: self.now, version: self.objects.writes };
        self.objects.all.insert(path.to_owned(), object);
    }

    /// A request reaches the store; what becomes of it is drawn now.
    fn receive(&mut self, op: Op, reply: Reply) {
        let there = self.chance.within(2, 60);
        let mut back = self.chance.within(2, 60);
        if !(self.faults && self.chance.odds(self.faulty)) {
            if self.faults && self.chance.odds(30) {
                // Slow, perhaps too slow.
                back += self.chance.within(0, 12_000);
            }
            return self.later(
                there,
                Box::new(move |w| {
                    let answer = w.effect(&op);
                    w.answer(back, reply, answer);
                }),
            );
        }
        let late = self.chance.within(5_000, 600_000);
        let fate = self.chance.within(0, 7);
        self.note(format_args!("store: fate {fate} for {op}"));
        match fate {
            // Refused without effect.
            0 => self.answer(there, reply, Err(broken("refused"))),
            // Done, and the answer is an error.
            1 => self.later(
                there,
                Box::new(move |w| {
                    drop(w.effect(&op));
                    w.answer(back, reply, Err(broken("answer lost")));
                }),
            ),
            // Done, and an inner retry finds the object there.
            2 => self.later(
                there,
                Box::new(move |w| {
                    let answer = match (w.effect(&op), &op) {
                        (Ok(Answer::Done), Op::Create(path, _)) => {
                            Err(Error::AlreadyExists { path: path.clone(), source: "your own".into() })
                        }
                        (answer, _) => answer,
                    };
                    w.answer(back, reply, answer);
                }),
            ),
            // No effect, and no answer.
            3 => self.keep(reply),
            // Done, and no answer.
            4 => {
                self.keep(reply);
                self.later(there, Box::new(move |w| drop(w.effect(&op))));
            }
            // No answer, and done minutes later.
            5 => {
                self.keep(reply);
                self.later(late, Box::new(move |w| drop(w.effect(&op))));
            }
            // An error at once, and done minutes later.
            _ => {
                self.answer(there, reply, Err(broken("gave up")));
                self.later(late, Box::new(move |w| drop(w.effect(&op))));
            }
        }
    }

    /// Never answers, and does not say so either.
    fn keep(&mut self, reply: Reply) {
        self.later(3_600_000, Box::new(move |_| drop(reply)));
    }

    fn answer(&mut self, delay: u64, reply: Reply, answer: Result<Answer>) {
        // Nobody waits any more: gave up, or died.
        self.later(delay, Box::new(move |_| drop(reply.send(answer))));
    }
}

/// The store as one process sees it.
#[derive(Debug, Clone)]
pub struct FaultyStore(pub Shared);

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl FaultyStore {
    async fn ask(&self, op: Op) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        self.0.lock().receive(op, reply);
        answer.await.unwrap_or_else(|_| Err(broken("no answer")))
    }

    async fn listing(self, prefix: Option<Path>) -> Result<Vec<ObjectMeta>> {
        let folder = prefix.map(|p| p.to_string()).unwrap_or_default();
        match self.ask(Op::List(folder)).await? {
            Answer::Listing(all) => Ok(all),
            _ => Err(broken("no listing")),
        }
    }
}

fn not_here(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.into(), implementer: "FaultyStore".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes: Bytes = payload.into();
        let path = location.to_string();
        let op = match opts.mode {
            PutMode::Create => Op::Create(path, bytes),
            PutMode::Overwrite => Op::Overwrite(path, bytes),
            PutMode::Update(_) => return Err(not_here("update")),
        };
        self.ask(op).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_here("multipart"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Answer::Object(bytes, meta) = self.ask(Op::Get(location.to_string())).await? else {
            return Err(broken("no object"));
        };
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|e| broken(&e.to_string()))?,
            None => 0..meta.size,
        };
        let part =
            if options.head { Bytes::new() } else { bytes.slice(range.start as usize..range.end as usize) };
        let payload = GetResultPayload::Stream(stream::once(async { Ok(part) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |path: Path| {
            let this = this.clone();
            async move { this.ask(Op::Delete(path.to_string())).await.map(|_| path) }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing = self.clone().listing(prefix.cloned());
        stream::once(listing).map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(not_here("list_with_delimiter"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_here("copy"))
    }
}
