//! Real servers for tests, private to the test that started them, and a
//! network between them that can be broken.
//!
//! | item | what it is |
//! |---|---|
//! | [`Redis`] | a private `redis-server`: kill, restart empty, pause |
//! | [`Cluster`] | a Redis Cluster: move slots, kill and pause its nodes |
//! | [`Sentinel`] | a master, its replica and three sentinels: fail over |
//! | [`Authority`] | certificates for servers that speak TLS, good and bad ones |
//! | [`Postgres`] | a private PostgreSQL cluster: kill, restart with recovery, pause |
//! | [`Proxy`] | a TCP proxy that can cut, stall and delay connections, and drop replies |
//! | [`Collector`] | a collector of traces over OTLP |
//! | [`Process`] | any other child process, with the same care |
//! | [`python`] | the Python that clients and peers run on |
//! | [`fuzz_inputs`] | seeds and finds of a fuzz target |
//! | [`free_port`] | a port of 127.0.0.1 without a listener |
//!
//! For all of them:
//!
//! - nothing is mocked, and nothing is shared with a server that already runs
//!   on the machine;
//! - every call is blocking, bounded in time, and **in effect when it
//!   returns**: after `pause()` the process stands still, after `cut()` the
//!   connections are gone. So they need no `sleep` after them, and they can be
//!   called inside an async test;
//! - a child dies with its value, and with the test process however that ends,
//!   a value in a `static` included;
//! - a failure panics with its reason: a test has no better use for an `Err`.
//!
//! ```
//! use lockstock_testkit::{Proxy, Redis};
//!
//! let redis = Redis::start();
//! let proxy = Proxy::start(redis.address());
//! let url = format!("redis://{}/0", proxy.address());
//! // … a client of `url` works, and then the network does not:
//! proxy.cut();
//! redis.kill();
//! redis.restart();
//! proxy.pass();
//! assert_eq!(redis.command(&["DBSIZE"]), Ok("0".into()));
//! # drop(url);
//! ```
//!
//! The programs come from `PATH` or from the environment
//! (`LOCKSTOCK_REDIS_SERVER`, `LOCKSTOCK_VALKEY_SERVER`,
//! `LOCKSTOCK_POSTGRES_BIN`); `./dev setup` installs them.

mod cluster;
mod collector;
mod fuzz;
mod port;
mod postgres;
mod process;
mod proxy;
mod python;
mod redis;
mod scratch;
mod sentinel;
mod tls;

pub use cluster::{Cluster, SlotMove};
pub use collector::{CollectedSpan, Collector};
pub use fuzz::fuzz_inputs;
pub use port::free_port;
pub use postgres::Postgres;
pub use process::Process;
pub use proxy::Proxy;
pub use python::python;
pub use redis::Redis;
pub use sentinel::Sentinel;
pub use tls::{Authority, Certificate};
