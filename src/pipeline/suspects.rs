//! Suspects: bodies that may kill the process that decodes them are decoded in a child process first (rule 10).
//!
//! Owns the child, and the words that are spoken with it. Does not own who is suspect: the source says so. Invariant: a
//! body is poison only if two children, each of which had said that it was ready, ended or fell silent over that body
//! alone. Where no child is to be had, nobody is poison, and the body is decoded here.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::delivery::{Delivery, Properties};

/// From this delivery on, a message is suspect: it was held four times by somebody who died, or gave it back.
pub const SUSPECT_ATTEMPT: u32 = 5;

/// From so many writers on that died within the hour, whatever was delivered before is suspect on queues that do not
/// count deliveries.
pub const DEATHS: usize = 3;

/// What a child says when it is ready, and after each body.
pub const WELL: u8 = b'.';

/// Longest that a child may be busy with one body, or with its start.
const DEADLINE: Duration = Duration::from_secs(30);

/// Children that must fall over a body before it is poison: one may have been killed by somebody else.
const CHILDREN: u32 = 2;

/// How a child is started.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    deadline: Duration,
}

impl Program {
    /// This program, with these arguments.
    pub fn this(args: Vec<OsString>) -> Option<Program> {
        // Also when the file has been replaced since.
        let running = PathBuf::from("/proc/self/exe");
        let path = if running.exists() { running } else { std::env::current_exe().ok()? };
        Some(Program::at(path, args))
    }

    /// The program at a path.
    pub fn at(path: PathBuf, args: Vec<OsString>) -> Program {
        Program { path, args, deadline: DEADLINE }
    }

    /// The same for a consumer.
    pub fn of_consumer(mut self, consumer: &str) -> Program {
        self.args.push(consumer.into());
        self
    }

    /// The same with another deadline for each body.
    pub fn within(mut self, deadline: Duration) -> Program {
        self.deadline = deadline;
        self
    }

    fn start(&self) -> io::Result<Running> {
        let mut command = Command::new(&self.path);
        command.args(&self.args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C is meant for us; the child ends with its input.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| io::Error::other("no pipes"))?;
        Ok(Running { child, input, output })
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Running {
    async fn answer(&mut self) -> io::Result<()> {
        match self.output.read_u8().await? {
            WELL => Ok(()),
            other => Err(io::Error::other(format!("it said {other:?}"))),
        }
    }

    async fn decode(&mut self, delivery: &Delivery) -> io::Result<()> {
        let (head, body) = frame(delivery)?;
        self.input.write_all(&head).await?;
        self.input.write_all(body).await?;
        self.input.flush().await?;
        self.answer().await
    }

    /// How it ended, once it is ended.
    async fn end(mut self) -> String {
        // Ended already: then this changes nothing.
        let _ = self.child.start_kill();
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        }
    }
}

/// The child process that tries bodies out, once there is one.
#[derive(Debug)]
pub struct Suspects {
    program: Option<Program>,
    running: Option<Running>,
}

impl Suspects {
    /// Nothing runs yet. Without a program, no body is ever tried out.
    pub fn new(program: Option<Program>) -> Suspects {
        Suspects { program, running: None }
    }

    /// Decodes a body in the child; why it is poison, if it is.
    pub async fn try_out(&mut self, delivery: &Delivery) -> Option<String> {
        let program = self.program.clone()?;
        let mut how = String::new();
        for _ in 0..CHILDREN {
            let mut running = match self.running.take() {
                Some(running) => running,
                None => ready(&program).await?,
            };
            how = match timeout(program.deadline, running.decode(delivery)).await {
                Ok(Ok(())) => {
                    self.running = Some(running);
                    return None;
                }
                Ok(Err(_)) => format!("the process that decoded it ended: {}", ended(running).await),
                Err(_) => {
                    ended(running).await;
                    format!("the process that decoded it said nothing for {:?}", program.deadline)
                }
            };
        }
        tracing::error!(tag = delivery.tag, attempt = delivery.attempt, how, "a body is poison");
        Some(how)
    }

    /// Ends the child: nobody is suspect any more.
    pub fn rest(&mut self) {
        self.running = None;
    }
}

/// A child that is ready; none if there is none to be had.
async fn ready(program: &Program) -> Option<Running> {
    let started = async {
        let mut running = program.start()?;
        running.answer().await.map(|()| running)
    };
    match timeout(DEADLINE, started).await {
        Ok(Ok(running)) => Some(running),
        Ok(Err(e)) => {
            tracing::warn!(error = %e, "cannot start a process for suspect bodies: decoding them here");
            None
        }
        Err(_) => {
            tracing::warn!("the process for suspect bodies does not start: decoding them here");
            None
        }
    }
}

async fn ended(running: Running) -> String {
    // Longer: it cannot be waited for, and is left to the system.
    timeout(Duration::from_secs(5), running.end()).await.unwrap_or_else(|_| "it cannot be ended".into())
}

/// What precedes a body on its way to the child: its length in bytes and this, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    bytes: usize,
    tag: u64,
    attempt: u32,
    properties: Option<Properties>,
}

fn frame(delivery: &Delivery) -> io::Result<(Vec<u8>, &[u8])> {
    let head = Head {
        bytes: delivery.body.len(),
        tag: delivery.tag,
        attempt: delivery.attempt,
        properties: delivery.properties.as_deref().cloned(),
    };
    let mut line = serde_json::to_vec(&head)?;
    line.push(b'\n');
    Ok((line, &delivery.body))
}

/// Reads the next delivery of a parent; `None` at the end.
///
/// # Errors
/// Those of the input, or one that no parent sends.
pub fn read(input: &mut impl io::BufRead) -> io::Result<Option<Delivery>> {
    let mut line = Vec::new();
    if input.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let head: Head = serde_json::from_slice(&line)?;
    let mut body = Vec::new();
    input.take(head.bytes as u64).read_to_end(&mut body)?;
    if body.len() < head.bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(Delivery {
        body: Bytes::from(body),
        tag: head.tag,
        flagged: true,
        attempt: head.attempt,
        position: i64::try_from(head.tag).unwrap_or(i64::MAX),
        properties: head.properties.map(Box::new),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_read() {
        let properties =
            Properties { routing_key: "a.b".into(), timestamp: Some(7), ..Properties::default() };
        let delivery = Delivery {
            body: Bytes::from_static(b"{\n\xff"),
            tag: 9,
            flagged: true,
            attempt: 5,
            position: 9,
            properties: Some(Box::new(properties)),
        };
        let (head, body) = frame(&delivery).expect("a frame");
        let mut bytes = [head.as_slice(), body].concat().repeat(2);
        let mut input = bytes.as_slice();
        for _ in 0..2 {
            let there = read(&mut input).expect("reads").expect("a delivery");
            assert_eq!(format!("{there:?}"), format!("{delivery:?}"));
        }
        assert!(read(&mut input).expect("the end").is_none());
        bytes.pop();
        let mut cut = bytes.as_slice();
        assert!(read(&mut cut).expect("the first").is_some());
        assert_eq!(read(&mut cut).expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
    }
}
