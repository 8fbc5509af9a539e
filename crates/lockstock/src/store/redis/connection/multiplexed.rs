//! An asynchronous connection: how it is opened, and how calls share it.
//!
//! Not by the redis crate's `Client`, whose stream cannot be [bounded](super::bounded).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::{AsyncStream, ConnectionLike, MultiplexedConnection, SendError};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, Pipeline, PushInfo, RedisFuture, RedisResult, Value,
};
use tokio::net::{TcpStream, lookup_host};
use tokio_util::task::AbortOnDropHandle;

use super::bounded::{Bounded, Confirmed};
use super::direct::Target;

/// How many calls can be passed to the task of a connection before it takes them. The redis crate
/// lets further callers wait, which costs each of them a wake-up; its default of 50 is less than the
/// calls of a busy process. The calls are in memory anyway.
const CALL_BUFFER: usize = 1024;

type Stream = Pin<Box<dyn AsyncStream + Send>>;

/// A connection that any number of calls share. Closed when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Multiplexed {
    pub(super) inner: MultiplexedConnection,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Multiplexed {
    /// Connects, authenticates and selects the database. There is no time limit.
    ///
    /// `response_timeout` is the limit of each call, unless the caller has one. `on_push` gets each
    /// push message, the last of which is [`Disconnection`](redis::PushKind::Disconnection).
    pub(super) async fn open(
        target: &Target,
        response_timeout: Option<Duration>,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Self> {
        let confirmed = Confirmed::default();
        let stream = Bounded::new(target.stream().await?, confirmed.clone());
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(response_timeout)
            .set_pipeline_buffer_size(CALL_BUFFER)
            .set_push_sender(move |push: PushInfo| -> Result<(), SendError> {
                confirmed.count(&push);
                on_push(push);
                Ok(())
            });
        let settings = target.info.redis_settings();
        let (inner, task) =
            MultiplexedConnection::new_with_config(settings, stream, config).await?;
        Ok(Self {
            inner,
            _task: AbortOnDropHandle::new(tokio::spawn(task)).into(),
        })
    }
}

impl ConnectionLike for Multiplexed {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.inner.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.inner.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}

impl Target {
    async fn stream(&self) -> io::Result<Stream> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                let addresses = lookup_host((&**host, *port)).await?;
                let attempts = addresses.map(|address| Box::pin(self.stream_to(address)));
                let attempts: Vec<_> = attempts.collect();
                if attempts.is_empty() {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        "the host has no address",
                    ));
                }
                Ok(select_ok(attempts).await?.0)
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => {
                Ok(Box::pin(tokio::net::UnixStream::connect(path).await?))
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    async fn stream_to(&self, address: SocketAddr) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(self.info.tcp_settings().nodelay())?;
        self.encrypt_stream(stream).await
    }

    #[cfg(feature = "tls")]
    async fn encrypt_stream(&self, stream: TcpStream) -> io::Result<Stream> {
        let Some((config, name)) = self.tls.session(self.info.addr())? else {
            return Ok(Box::pin(stream));
        };
        let connector = tokio_rustls::TlsConnector::from(config);
        Ok(Box::pin(connector.connect(name, stream).await?))
    }

    #[cfg(not(feature = "tls"))]
    async fn encrypt_stream(&self, stream: TcpStream) -> io::Result<Stream> {
        match self.info.addr() {
            ConnectionAddr::TcpTls { .. } => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(Box::pin(stream)),
        }
    }
}
