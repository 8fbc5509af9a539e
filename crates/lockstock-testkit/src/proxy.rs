//! A network that can be broken.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::port::{free_port, stop_listening};

/// Attempts to find a port: another process may take one first.
const PORTS: usize = 10;

/// A TCP proxy on 127.0.0.1 in front of a server, whose network a test breaks
/// while connections run through it.
///
/// One fault at a time; setting one replaces the last, for connections that
/// exist and for those to come, and is in effect when the call returns. The
/// proxy has a thread and a clock of its own, so it works the same from a
/// blocking test, from an async one, and from one whose time stands still. On
/// drop it resets what is left.
///
/// It never does what no network does: bytes may be late or never come, but
/// none is left out of the middle of a connection, changed, or repeated.
///
/// ```
/// use lockstock_testkit::{Proxy, Redis};
/// use std::net::TcpStream;
///
/// let redis = Redis::start();
/// let proxy = Proxy::start(redis.address());
/// assert!(TcpStream::connect(proxy.address()).is_ok());
/// proxy.cut();
/// assert!(TcpStream::connect(proxy.address()).is_err());
/// ```
pub struct Proxy {
    address: SocketAddr,
    orders: Option<mpsc::UnboundedSender<Order>>,
    held: Held,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the servers have sent on connections whose replies are held.
type Held = Arc<Mutex<Vec<u8>>>;

/// A change to make, and where to confirm that it is in effect.
type Order = (Change, std_mpsc::SyncSender<io::Result<()>>);

#[derive(Clone, Copy, Debug)]
enum Change {
    Fault(Fault),
    Forget,
    HoldReplies,
    Redirect(SocketAddr),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Pass,
    Cut,
    Stall,
    DropReplies,
    Delay(Duration),
    ResetNextReply,
    HoldReplies,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`. While `upstream` is down,
    /// connections are accepted and reset.
    pub fn start(upstream: SocketAddr) -> Proxy {
        let (orders, inbox) = mpsc::unbounded_channel();
        // Not port 0: the kernel may give such a port to an outgoing
        // connection while there is no listener after a cut.
        let listener = (0..PORTS)
            .find_map(|_| std::net::TcpListener::bind(("127.0.0.1", free_port())).ok())
            .unwrap_or_else(|| panic!("the proxy found every one of {PORTS} ports taken"));
        let address = listener.local_addr().expect("a listener has an address");
        listener
            .set_nonblocking(true)
            .expect("a listener can be made not to block");
        let held = Held::default();
        let holder = held.clone();
        let thread = thread::Builder::new()
            .name("testkit-proxy".into())
            .spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime for the proxy")
                    .block_on(serve(listener, address, upstream, inbox, holder));
            })
            .expect("a thread for the proxy");
        Proxy {
            address,
            orders: Some(orders),
            held,
            thread: Some(thread),
        }
    }

    /// Returns the address of the proxy, which never changes.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the fault: delayed and held bytes are forwarded, connections are accepted.
    ///
    /// Connections that have already lost a reply are reset.
    pub fn pass(&self) {
        self.order(Fault::Pass);
    }

    /// Resets all connections and refuses new ones, as a server that is down.
    pub fn cut(&self) {
        self.order(Fault::Cut);
    }

    /// Accepts connections and forwards nothing in either direction: a black
    /// hole. What is sent meanwhile arrives after [`pass`](Proxy::pass), as it
    /// would once a real network retransmits.
    pub fn stall(&self) {
        self.order(Fault::Stall);
    }

    /// Forwards requests and drops replies: the requests take effect unknown
    /// to the client.
    ///
    /// A connection that has lost a reply this way never carries another; it
    /// is reset when the fault ends.
    pub fn drop_replies(&self) {
        self.order(Fault::DropReplies);
    }

    /// Holds each chunk of replies back for `delay`.
    pub fn delay(&self, delay: Duration) {
        self.order(Fault::Delay(delay));
    }

    /// Drops the next reply on any connection and resets that connection, as
    /// if a commit took effect and its reply was lost. Then the fault ends.
    pub fn reset_next_reply(&self) {
        self.order(Fault::ResetNextReply);
    }

    /// Forgets the connections that exist, as a firewall does that was idle
    /// for too long: they stay open and never carry another byte, until a
    /// [`cut`](Proxy::cut). New ones are not affected.
    pub fn forget(&self) {
        self.change(Change::Forget);
    }

    /// Forwards requests on the connections that exist, and holds their replies until another fault
    /// or [`pass`](Proxy::pass): then each gets its replies in one piece. New connections are not
    /// affected.
    pub fn hold_replies(&self) {
        self.change(Change::HoldReplies);
    }

    /// Returns what the server has sent since [`hold_replies`](Proxy::hold_replies), on all
    /// connections that it affects.
    pub fn held_replies(&self) -> Vec<u8> {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Leads new connections to another server, as a name does after a
    /// failover. Those that exist stay where they are.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.change(Change::Redirect(upstream));
    }

    fn order(&self, fault: Fault) {
        self.change(Change::Fault(fault));
    }

    fn change(&self, change: Change) {
        let (done, answer) = std_mpsc::sync_channel(1);
        self.orders
            .as_ref()
            .and_then(|orders| orders.send((change, done)).ok())
            .expect("the proxy runs as long as its value");
        answer
            .recv()
            .expect("the proxy answers every order")
            .unwrap_or_else(|error| panic!("{change:?} of {}: {error}", self.address));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The thread ends with the channel.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    address: SocketAddr,
    mut upstream: SocketAddr,
    mut inbox: mpsc::UnboundedReceiver<Order>,
    held: Held,
) {
    let listener = TcpListener::from_std(listener).expect("a listener that does not block");
    let mut listener = Some(listener);
    let (mut faults, _) = watch::channel(Fault::Pass);
    let mut forgotten: Vec<watch::Sender<Fault>> = Vec::new();
    // The connections whose replies are, or were, held.
    let mut holding: Vec<watch::Sender<Fault>> = Vec::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            order = inbox.recv() => {
                // The end of the proxy is a cut that no caller awaits.
                let end = (Change::Fault(Fault::Cut), None);
                let (change, done) = order.map_or(end, |(change, done)| (change, Some(done)));
                let fault = match change {
                    Change::Fault(fault) => {
                        for group in &holding {
                            group.send_replace(fault);
                        }
                        fault
                    }
                    Change::HoldReplies => {
                        held.lock().unwrap_or_else(PoisonError::into_inner).clear();
                        let (new, _) = watch::channel(Fault::Pass);
                        holding.push(std::mem::replace(&mut faults, new));
                        for group in &holding {
                            group.send_replace(Fault::HoldReplies);
                        }
                        Fault::Pass
                    }
                    Change::Forget => {
                        for group in holding.drain(..) {
                            group.send_replace(Fault::Stall);
                            forgotten.push(group);
                        }
                        let (new, _) = watch::channel(Fault::Pass);
                        let old = std::mem::replace(&mut faults, new);
                        old.send_replace(Fault::Stall);
                        forgotten.push(old);
                        Fault::Pass
                    }
                    Change::Redirect(to) => {
                        upstream = to;
                        *faults.borrow()
                    }
                };
                let mut outcome = Ok(());
                faults.send_replace(fault);
                if fault == Fault::Cut {
                    holding.clear();
                    for old in forgotten.drain(..) {
                        old.send_replace(Fault::Cut);
                    }
                    // An open listener accepts, so it is closed.
                    if let Some(listener) = listener.take() {
                        stop_listening(&listener);
                    }
                    while connections.join_next().await.is_some() {}
                } else if listener.is_none() {
                    match TcpListener::bind(address).await {
                        Ok(bound) => listener = Some(bound),
                        Err(error) => outcome = Err(error),
                    }
                }
                let Some(done) = done else { return };
                let _ = done.send(outcome);
            }
            client = accept(&listener) => {
                let (faults, held) = (faults.clone(), held.clone());
                connections.spawn(connection(client, upstream, faults, held));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: &Option<TcpListener>) -> TcpStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            // Probably out of file descriptors: retried after a pause.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(
    mut client: TcpStream,
    upstream: SocketAddr,
    faults: watch::Sender<Fault>,
    held: Held,
) {
    let mut cut = faults.subscribe();
    let mut server = None;
    let ended_well = tokio::select! {
        // First, so that no bytes pass after a cut.
        biased;
        _ = cut.wait_for(|fault| *fault == Fault::Cut) => false,
        outcome = relay(&mut client, &mut server, upstream, &faults, &held) => outcome.is_ok(),
    };
    if !ended_well {
        reset(&client);
        if let Some(server) = &server {
            reset(server);
        }
    }
}

/// Sends a reset, now.
///
/// Closing with a zero SO_LINGER sends one too, but only with the last copy of
/// the socket, and a process that another thread is starting holds a copy from
/// fork to exec. Disconnecting works on the connection itself.
fn reset(stream: &TcpStream) {
    // Fails only if the connection has ended.
    let _ = rustix::net::connect_unspec(stream);
}

/// Carries bytes both ways until both sides have finished, or one fails.
async fn relay(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    upstream: SocketAddr,
    faults: &watch::Sender<Fault>,
    held: &Held,
) -> io::Result<()> {
    unless_stalled(faults).await;
    let server = server.insert(TcpStream::connect(upstream).await?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        requests(from_client, to_server, faults),
        replies(from_server, to_client, faults, held),
    )?;
    Ok(())
}

async fn requests(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    faults: &watch::Sender<Fault>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        unless_stalled(faults).await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

async fn replies(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    faults: &watch::Sender<Fault>,
    held: &Held,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut length = from.read(&mut buffer).await?;
        while *faults.borrow() == Fault::HoldReplies && length > 0 {
            length = hold(&mut from, &mut buffer, length, faults, held).await?;
        }
        unless_stalled(faults).await;
        if length == 0 {
            return to.shutdown().await;
        }
        let fault = *faults.borrow();
        match fault {
            Fault::DropReplies => return lose_replies(from, faults).await,
            Fault::ResetNextReply => {
                // Only this connection: the others run on this thread, too, so
                // that none intervenes.
                faults.send_replace(Fault::Pass);
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Pass | Fault::Cut | Fault::Stall | Fault::HoldReplies => {}
        }
        to.write_all(&buffer[..length]).await?;
    }
}

/// Reads on until the replies are no longer held. Returns the length of what `buffer` has then.
async fn hold(
    from: &mut ReadHalf<'_>,
    buffer: &mut Vec<u8>,
    mut length: usize,
    faults: &watch::Sender<Fault>,
    held: &Held,
) -> io::Result<usize> {
    let mut state = faults.subscribe();
    let mut noted = 0;
    loop {
        held.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&buffer[noted..length]);
        noted = length;
        if buffer.len() == length {
            buffer.resize(2 * length, 0);
        }
        let more = tokio::select! {
            biased;
            _ = state.wait_for(|fault| *fault != Fault::HoldReplies) => return Ok(length),
            more = from.read(&mut buffer[length..]) => more?,
        };
        if more == 0 {
            // The end is forwarded after the bytes.
            let _ = state.wait_for(|fault| *fault != Fault::HoldReplies).await;
            return Ok(length);
        }
        length += more;
    }
}

/// Discards replies until the fault ends, and then fails: to continue would
/// omit bytes from the middle, which TCP never does.
async fn lose_replies(mut from: ReadHalf<'_>, faults: &watch::Sender<Fault>) -> io::Result<()> {
    let mut nowhere = vec![0; 64 * 1024];
    let read_on = async {
        while from.read(&mut nowhere).await.is_ok_and(|length| length > 0) {}
        // The end of the connection is lost too.
        std::future::pending::<()>().await;
    };
    let mut state = faults.subscribe();
    tokio::select! {
        () = read_on => {}
        _ = state.wait_for(|fault| *fault != Fault::DropReplies) => {}
    }
    Err(io::ErrorKind::ConnectionReset.into())
}

async fn unless_stalled(faults: &watch::Sender<Fault>) {
    // Never fails: the sender is alive.
    let _ = faults
        .subscribe()
        .wait_for(|fault| *fault != Fault::Stall)
        .await;
}
