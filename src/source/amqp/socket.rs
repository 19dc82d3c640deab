//! Sockets that gather: after a burst that was read to its end, the next read waits for a millisecond.
//!
//! The client library reads on a thread of its own, which a socket wakes through tokio's reactor: two thread switches for
//! whatever has come, and a broker that is on the same machine sends a dozen messages at a time. Owns when a socket is
//! read, and the word that it is gone; everything else is tokio's. Invariant: a read that waits is woken, by its rest or
//! by the socket.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How long a socket is left to itself.
const REST: Duration = Duration::from_millis(1);

/// Bytes of a burst: fewer are an answer or a lonely message, more are a flood that fills a read by itself. Neither is made
/// to wait.
const BURST: Range<usize> = 2 << 10..128 << 10;

/// tokio's runtime, with sockets that gather.
pub type Gathering = RuntimeParts<Tokio, Sockets>;

/// The runtime for a connection to the broker, and who is notified when its socket is gone. To be called within tokio's.
pub fn runtime() -> (Runtime<Gathering>, Arc<Notify>) {
    let gone = Arc::new(Notify::new());
    let sockets = Sockets { tokio: Tokio::current(), handle: Handle::current(), gone: Arc::clone(&gone) };
    (Runtime::new(RuntimeParts::new(Tokio::current(), sockets)), gone)
}

/// tokio's reactor, with sockets that gather.
#[derive(Debug, Clone)]
pub struct Sockets {
    tokio: Tokio,
    handle: Handle,
    gone: Arc<Notify>,
}

impl Reactor for Sockets {
    type TcpStream = Socket<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.tokio.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.tokio.tcp_connect_addr(addr);
        let (handle, gone) = (self.handle.clone(), Arc::clone(&self.gone));
        async move { Ok(Socket { inner: connecting.await?, handle, come: 0, rest: None, gone }) }
    }
}

/// A socket that gathers.
#[derive(Debug)]
pub struct Socket<S> {
    inner: S,
    handle: Handle,
    /// Bytes that came since it rested, or had nothing.
    come: usize,
    /// A task, since a timer of its own would panic in the library's thread when the runtime ends.
    rest: Option<JoinHandle<()>>,
    gone: Arc<Notify>,
}

impl<S> Drop for Socket<S> {
    fn drop(&mut self) {
        self.gone.notify_one();
    }
}

impl<S> Socket<S> {
    /// Ready when the socket may be read.
    fn poll_rested(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(rest) = &mut self.rest {
            let _ = ready!(Pin::new(rest).poll(cx));
            self.rest = None;
        }
        Poll::Ready(())
    }

    /// `read` bytes had come, and `room` might have.
    fn came(&mut self, read: usize, room: usize) {
        self.come += read;
        // A full read may have left something.
        if read < room && BURST.contains(&std::mem::take(&mut self.come)) {
            self.rest = Some(self.handle.spawn(async { tokio::time::sleep(REST).await }));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rested(cx));
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(read)) => self.came(*read, buf.len()),
            Poll::Ready(Err(_)) | Poll::Pending => self.come = 0,
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::FutureExt;
    use futures_util::io::{AsyncReadExt, Cursor};

    use super::*;

    fn socket(bytes: usize) -> Socket<Cursor<Vec<u8>>> {
        let (inner, handle) = (Cursor::new(vec![7; bytes]), Handle::current());
        Socket { inner, handle, come: 0, rest: None, gone: Arc::default() }
    }

    /// What a read gives at once, if it does not wait.
    fn at_once(socket: &mut Socket<Cursor<Vec<u8>>>, room: usize) -> Option<usize> {
        socket.read(&mut vec![0; room]).now_or_never().map(|read| read.expect("bytes"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_followed_by_a_rest() {
        let mut socket = socket(3_000);
        assert_eq!(at_once(&mut socket, 8_000), Some(3_000));
        socket.inner.get_mut().extend([8; 500]);
        assert_eq!(at_once(&mut socket, 8_000), None);
        // What comes meanwhile is read together.
        socket.inner.get_mut().extend([9; 500]);
        let began = tokio::time::Instant::now();
        assert_eq!(socket.read(&mut [0; 8_000]).await.expect("bytes"), 1_000);
        assert!(began.elapsed() >= REST);
    }

    #[tokio::test(start_paused = true)]
    async fn reads_that_are_full_are_one_burst_with_the_last() {
        // As TLS reads.
        let mut socket = socket(9_000);
        let reads: Vec<_> = (0..4).map(|_| at_once(&mut socket, 4_096)).collect();
        assert_eq!(reads, [Some(4_096), Some(4_096), Some(808), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_an_answer_nor_a_flood_is() {
        for bytes in [1_000, 200_000] {
            let mut socket = socket(bytes);
            assert_eq!(at_once(&mut socket, 1 << 20), Some(bytes));
            assert_eq!(at_once(&mut socket, 1 << 20), Some(0), "its end, without a rest");
        }
    }
}
