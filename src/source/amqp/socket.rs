//! Sockets that gather: after a read that found little, the next one waits for a millisecond.
//!
//! The client library reads on a thread of its own, which a socket wakes through tokio's reactor: two thread switches for
//! whatever has come, and a broker that is on the same machine sends a dozen messages at a time.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How long a socket is left to itself.
const REST: Duration = Duration::from_millis(1);

/// A read of fewer bytes is an answer or a lonely message: what follows it is not made to wait.
const BURST: usize = 2 << 10;

/// tokio's runtime, with sockets that gather.
pub type Gathering = RuntimeParts<Tokio, Sockets>;

/// The runtime for the broker's connections. To be called within tokio's.
pub fn runtime() -> Runtime<Gathering> {
    let sockets = Sockets { tokio: Tokio::current(), handle: Handle::current() };
    Runtime::new(RuntimeParts::new(Tokio::current(), sockets))
}

/// tokio's reactor, with sockets that gather.
#[derive(Debug, Clone)]
pub struct Sockets {
    tokio: Tokio,
    handle: Handle,
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
        let handle = self.handle.clone();
        async move { Ok(Socket { inner: connecting.await?, handle, rest: None }) }
    }
}

/// A socket that gathers.
#[derive(Debug)]
pub struct Socket<S> {
    inner: S,
    handle: Handle,
    /// A task, since a timer of its own would panic in the library's thread when the runtime ends.
    rest: Option<JoinHandle<()>>,
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
        if (BURST..room).contains(&read) {
            self.rest = Some(self.handle.spawn(async { tokio::time::sleep(REST).await }));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rested(cx));
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.came(read, buf.len());
        Poll::Ready(Ok(read))
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
        Socket { inner: Cursor::new(vec![7; bytes]), handle: Handle::current(), rest: None }
    }

    #[tokio::test(start_paused = true)]
    async fn rests_after_a_burst_that_left_room() {
        let mut socket = socket(6_000);
        let mut full = [0; 4_000];
        assert_eq!(socket.read(&mut full).await.expect("bytes"), 4_000);
        // More may lie ready: the room was too small to tell.
        let mut roomy = [0; 4_000];
        assert_eq!(socket.read(&mut roomy).now_or_never().expect("no rest").expect("bytes"), 2_000);
        let lonely = socket.read(&mut roomy).now_or_never();
        assert!(lonely.is_some(), "2,000 bytes are no burst");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_meanwhile_is_read_together() {
        let mut socket = socket(3_000);
        let mut room = [0; 8_000];
        assert_eq!(socket.read(&mut room).await.expect("bytes"), 3_000);
        socket.inner.get_mut().extend([8; 500]);
        assert!(socket.read(&mut room).now_or_never().is_none(), "it rests");
        socket.inner.get_mut().extend([9; 500]);
        let began = tokio::time::Instant::now();
        assert_eq!(socket.read(&mut room).await.expect("bytes"), 1_000);
        assert!(began.elapsed() >= REST);
    }
}
