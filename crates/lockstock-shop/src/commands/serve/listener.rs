//! The listening socket and the connections of clients: HTTP/1.1, and HTTP/2 over TLS.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::self_wake::poll_again_at_once;
use super::tls::HTTP_2;
use crate::cli::listen_address::ListenAddress;
use crate::forwarding::{OverTls, Peer};

/// Connections that the kernel keeps until they are accepted. Without room for one, its client tries
/// again after a second.
const BACKLOG: u32 = 4096;

/// Maximum size of the request line and headers.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// Maximum number of requests at once on one connection of HTTP/2.
const MAX_STREAMS: u32 = 100;

pub(super) struct Listener {
    socket: Socket,
    /// One permit for each connection that may be open.
    permits: Arc<Semaphore>,
    max_connections: u32,
    protocol: Protocol,
    connections: GracefulShutdown,
}

/// How connections are served.
#[derive(Clone)]
struct Protocol {
    header_timeout: Duration,
    tls: Option<TlsAcceptor>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket, which is removed when it is dropped.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Fails if the file is gone already.
        let _ = fs::remove_file(&self.0);
    }
}

/// A connection that was accepted.
pub(super) struct Accepted {
    stream: Stream,
    peer: Peer,
    permit: OwnedSemaphorePermit,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// `option` is the one that chooses the address.
    pub(super) fn bind(
        address: &ListenAddress,
        option: &str,
        max_connections: usize,
        header_timeout: Duration,
        tls: Option<TlsAcceptor>,
    ) -> anyhow::Result<Self> {
        let socket = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address).map(Socket::Tcp),
            ListenAddress::Unix(path) => {
                remove_stale(path, option)?;
                UnixListener::bind(path)
                    .map(|listener| Socket::Unix(listener, SocketFile(path.clone())))
            }
        };
        let socket = socket
            .with_context(|| format!("cannot listen on {address}: choose another with {option}"))?;
        Ok(Self {
            socket,
            permits: Arc::new(Semaphore::new(max_connections)),
            max_connections: u32::try_from(max_connections)?,
            protocol: Protocol {
                header_timeout,
                tls,
            },
            connections: GracefulShutdown::new(),
        })
    }

    /// Returns the address, with the port that was bound.
    pub(super) fn address(&self) -> anyhow::Result<ListenAddress> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => ListenAddress::Tcp(listener.local_addr()?),
            Socket::Unix(_, file) => ListenAddress::Unix(file.0.clone()),
        })
    }

    /// Accepts the next connection, once fewer than the maximum are open.
    pub(super) async fn accept(&self) -> anyhow::Result<Accepted> {
        let permit = self.permits.clone().acquire_owned().await?;
        let (stream, peer) = match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let stream = prepare(stream, self.protocol.header_timeout)?;
                (Stream::Tcp(stream), Peer::from(address))
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                (Stream::Unix(stream), Peer::Unix)
            }
        };
        Ok(Accepted {
            stream,
            peer,
            permit,
        })
    }

    /// Serves a connection on a task of its own.
    pub(super) fn serve(&self, accepted: Accepted, router: Router) {
        let Accepted {
            stream,
            peer,
            permit,
        } = accepted;
        let protocol = self.protocol.clone();
        protocol.serve(&self.connections, stream, peer, permit, router);
    }

    /// Closes the socket, and completes when all open connections have finished their current
    /// request.
    ///
    /// A connection without a request is closed after `linger`: a proxy may have sent one that has
    /// not arrived, and would not send a POST to another server.
    pub(super) async fn close(self, linger: Duration, router: &Router) -> anyhow::Result<()> {
        let Self {
            socket,
            permits,
            max_connections,
            protocol,
            connections,
        } = self;
        let header_timeout = protocol.header_timeout;
        let serve = |stream, peer, permit| {
            let protocol = protocol.clone();
            protocol.serve(&connections, stream, peer, permit, router.clone());
        };
        // The kernel has accepted these connections already.
        match socket {
            Socket::Tcp(listener) => {
                let listener = listener.into_std()?;
                while let Ok(permit) = permits.clone().try_acquire_owned()
                    && let Ok((stream, address)) = listener.accept()
                {
                    stream.set_nonblocking(true)?;
                    let stream = prepare(TcpStream::from_std(stream)?, header_timeout)?;
                    serve(Stream::Tcp(stream), Peer::from(address), permit);
                }
            }
            Socket::Unix(listener, file) => {
                // First: the next server may create it again as soon as this one stops listening.
                drop(file);
                let listener = listener.into_std()?;
                while let Ok(permit) = permits.clone().try_acquire_owned()
                    && let Ok((stream, _)) = listener.accept()
                {
                    stream.set_nonblocking(true)?;
                    let stream = UnixStream::from_std(stream)?;
                    serve(Stream::Unix(stream), Peer::Unix, permit);
                }
            }
        }
        let _ = timeout(linger, permits.acquire_many(max_connections)).await;
        connections.shutdown().await;
        Ok(())
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted server need not wait for connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn prepare(stream: TcpStream, header_timeout: Duration) -> io::Result<TcpStream> {
    // A response is one small write, which Nagle's algorithm would delay.
    stream.set_nodelay(true)?;
    // hyper has no write timeout: without this a client that never reads keeps its connection
    // open.
    SockRef::from(&stream).set_tcp_user_timeout(Some(header_timeout))?;
    Ok(stream)
}

impl Protocol {
    /// Serves a connection on a task of its own.
    fn serve(
        self,
        connections: &GracefulShutdown,
        stream: Stream,
        peer: Peer,
        permit: OwnedSemaphorePermit,
        router: Router,
    ) {
        let watcher = connections.watcher();
        tokio::spawn(async move {
            let served = match stream {
                Stream::Tcp(stream) => self.negotiate(watcher, stream, peer, router).await,
                Stream::Unix(stream) => self.negotiate(watcher, stream, peer, router).await,
            };
            // The client disconnected or sent invalid HTTP: nothing for an operator to do.
            if let Err(error) = served {
                debug!(%error, "connection failed");
            }
            drop(permit);
        });
    }

    /// Serves a connection in the protocol that the client chooses.
    async fn negotiate<S>(
        self,
        watcher: Watcher,
        stream: S,
        peer: Peer,
        router: Router,
    ) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let is_over_tls = self.tls.is_some();
        let requests = Requests {
            router,
            peer,
            is_over_tls,
        };
        let Some(tls) = &self.tls else {
            return self.http_1(watcher, stream, requests).await;
        };
        let stream = timeout(self.header_timeout, tls.accept(stream)).await??;
        match stream.get_ref().1.alpn_protocol() {
            Some(HTTP_2) => self.http_2(watcher, stream, requests).await,
            _ => self.http_1(watcher, stream, requests).await,
        }
    }

    async fn http_1<S>(&self, watcher: Watcher, stream: S, requests: Requests) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = http1::Builder::new()
            // hyper applies no timeout at all without a timer.
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            // A client may shut down its sending side and still wait for the response.
            .half_close(true)
            .max_buf_size(MAX_HEAD_BYTES as usize)
            .serve_connection(TokioIo::new(stream), requests);
        Ok(poll_again_at_once(watcher.watch(connection)).await?)
    }

    async fn http_2<S>(&self, watcher: Watcher, stream: S, requests: Requests) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // A client that does not reply to a ping is gone.
            .keep_alive_interval(self.header_timeout)
            .keep_alive_timeout(self.header_timeout)
            .max_header_list_size(MAX_HEAD_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .serve_connection(TokioIo::new(stream), requests);
        Ok(watcher.watch(connection).await?)
    }
}

/// Handles the requests of one connection.
#[derive(Clone)]
struct Requests {
    router: Router,
    peer: Peer,
    is_over_tls: bool,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        if self.is_over_tls {
            request.extensions_mut().insert(OverTls);
        }
        // A router is always ready.
        tower::Service::call(&mut self.router.clone(), request)
    }
}

/// Removes a socket that a server left behind when it was killed.
fn remove_stale(path: &Path, option: &str) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // A missing folder is an error of the bind.
        Err(_) => return Ok(()),
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "{} exists and is not a socket: choose another path with {option}",
            path.display()
        );
    }
    match BlockingUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => bail!(
            "another process listens on {}: choose another path with {option}",
            path.display()
        ),
    }
}
