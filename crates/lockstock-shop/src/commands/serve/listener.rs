//! The listening socket and the HTTP/1.1 connections of clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

/// Maximum size of the request line and headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

pub(super) struct Listener {
    tcp: TcpListener,
    /// One permit for each connection that may be open.
    permits: Arc<Semaphore>,
    header_timeout: Duration,
    connections: GracefulShutdown,
}

impl Listener {
    pub(super) async fn bind(
        address: SocketAddr,
        max_connections: usize,
        header_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let tcp = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}: choose another with --listen"))?;
        Ok(Self {
            tcp,
            permits: Arc::new(Semaphore::new(max_connections)),
            header_timeout,
            connections: GracefulShutdown::new(),
        })
    }

    /// Returns the address with the port that was bound.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.tcp.local_addr()?)
    }

    /// Accepts the next connection, once fewer than the maximum are open.
    pub(super) async fn accept(&self) -> anyhow::Result<(TcpStream, OwnedSemaphorePermit)> {
        let permit = self.permits.clone().acquire_owned().await?;
        let (stream, _) = self.tcp.accept().await?;
        // A response is one small write, which Nagle's algorithm would delay.
        stream.set_nodelay(true)?;
        // hyper has no write timeout: without this a client that never reads keeps its
        // connection open.
        SockRef::from(&stream).set_tcp_user_timeout(Some(self.header_timeout))?;
        Ok((stream, permit))
    }

    /// Serves a connection on a task of its own.
    pub(super) fn serve(&self, stream: TcpStream, permit: OwnedSemaphorePermit, router: Router) {
        let connection = http1::Builder::new()
            // hyper applies no timeout at all without a timer.
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            // A client may shut down its sending side and still wait for the response.
            .half_close(true)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let connection = self.connections.watch(connection);
        tokio::spawn(async move {
            // The client disconnected or sent invalid HTTP: nothing for an operator to do.
            if let Err(error) = connection.await {
                debug!(%error, "connection failed");
            }
            drop(permit);
        });
    }

    /// Closes the socket. The future completes when all open connections have finished their
    /// current request.
    pub(super) fn close(self) -> impl Future<Output = ()> {
        self.connections.shutdown()
    }
}
