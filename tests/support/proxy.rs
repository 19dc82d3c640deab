//! A TCP proxy with faults: connections can be cut, refused, stalled (open, but nothing moves) and delayed.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Forwards connections from a port of its own to an upstream address.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Both ends of every open connection, by its number.
    open: HashMap<u64, [TcpStream; 2]>,
    accepted: u64,
    stalled: bool,
    refusing: bool,
    closed: bool,
    delay: Duration,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks while stalled; the delay to keep, or `None` once the proxy is gone.
    fn pass(&self) -> Option<Duration> {
        let held = self.changed.wait_while(self.state(), |state| state.stalled && !state.closed);
        let state = held.unwrap_or_else(PoisonError::into_inner);
        (!state.closed).then_some(state.delay)
    }
}

impl TcpProxy {
    /// Starts forwarding to `upstream` (`host:port`), which need not be there yet.
    pub fn start(upstream: &str) -> TcpProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let (upstream, state) = (upstream.to_owned(), Arc::clone(&shared));
        thread::spawn(move || accept(&listener, &upstream, &state));
        TcpProxy { address, shared }
    }

    /// Where to connect to, `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// Closes every open connection; new ones are served.
    pub fn cut(&self) {
        for (_, ends) in self.shared.state().open.drain() {
            ends.iter().for_each(close);
        }
    }

    /// Closes every open connection, and each new one at once, until [`TcpProxy::serve`].
    pub fn refuse(&self) {
        self.shared.state().refusing = true;
        self.cut();
    }

    /// Serves new connections again after [`TcpProxy::refuse`].
    pub fn serve(&self) {
        self.shared.state().refusing = false;
    }

    /// Keeps connections open but moves nothing, as a half-open link does, until [`TcpProxy::resume`].
    pub fn stall(&self) {
        self.shared.state().stalled = true;
    }

    /// Moves what was held back by [`TcpProxy::stall`].
    pub fn resume(&self) {
        self.shared.state().stalled = false;
        self.shared.changed.notify_all();
    }

    /// Holds every chunk back for `by`, in each direction.
    pub fn delay(&self, by: Duration) {
        self.shared.state().delay = by;
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
        self.cut();
        // Wakes the accepting thread, which then sees that it is closed.
        TcpStream::connect(self.address).ok();
    }
}

fn accept(listener: &TcpListener, upstream: &str, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let mut state = shared.state();
        if state.closed {
            return;
        }
        state.accepted += 1;
        if state.refusing {
            continue;
        }
        let number = state.accepted;
        drop(state);
        let (shared, upstream) = (Arc::clone(shared), upstream.to_owned());
        thread::spawn(move || connect(number, client, &upstream, &shared));
    }
}

fn connect(number: u64, client: TcpStream, upstream: &str, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(upstream) else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let clone = |end: &TcpStream| end.try_clone().expect("a socket handle can be duplicated");
    {
        let mut state = shared.state();
        if state.refusing || state.closed {
            return;
        }
        state.open.insert(number, [clone(&client), clone(&server)]);
    }
    let (from, to, there) = (clone(&server), clone(&client), Arc::clone(shared));
    let back = thread::spawn(move || pump(from, to, &there));
    pump(client, server, shared);
    back.join().ok();
    shared.state().open.remove(&number);
}

/// Moves bytes one way until that way ends, and passes the end on.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let Some(delay) = shared.pass() else { break };
        thread::sleep(delay);
        if read == 0 {
            to.shutdown(Shutdown::Write).ok();
            return;
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    close(&from);
    close(&to);
}

/// Ends a connection at once; it may have ended already.
fn close(end: &TcpStream) {
    end.shutdown(Shutdown::Both).ok();
}
