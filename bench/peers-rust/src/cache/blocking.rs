//! Threads that read values, each over a socket of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::load::{KEYS, cpu_seconds, key, line};
use crate::order;

const TTL: Duration = Duration::from_secs(3600);
const NAMESPACE: &str = "bench";
const PREFIX: &str = "lockstock:cache:bench:1:";

pub struct Blocking<'a> {
    pub url: &'a str,
    pub threads: usize,
    pub bytes: usize,
    pub seconds: f64,
}

impl Blocking<'_> {
    pub fn run(&self, rounds: u32, libraries: &[&str]) -> Result<()> {
        let cache = self.cache()?;
        let value = Bytes::from("x".repeat(self.bytes));
        for number in 0..KEYS {
            cache.set(key(number), &value, TTL)?;
        }
        for round in 0..rounds {
            for name in order(libraries, round) {
                println!("{}", self.round(name)?);
            }
        }
        Ok(())
    }

    fn cache(&self) -> Result<lockstock::blocking::Cache<Bytes, lockstock::Raw>> {
        let store = lockstock::blocking::Store::open(self.url)?;
        Ok(store.cache::<Bytes>(NAMESPACE).codec(lockstock::Raw))
    }

    fn round(&self, name: &str) -> Result<String> {
        let cache = self.cache()?;
        let (begun, cpu) = (Instant::now(), cpu_seconds()?);
        let end = begun + Duration::from_secs_f64(self.seconds);
        let latencies = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|number| {
                    let cache = cache.clone();
                    scope.spawn(move || match name {
                        "lockstock" => play(number, end, |key| {
                            ensure!(cache.get(key)?.is_some(), "no value");
                            Ok(())
                        }),
                        "wire" => {
                            let mut wire = Wire::open(self.url, self.bytes)?;
                            play(number, end, |key| wire.get(key))
                        }
                        "redis" => {
                            let client = redis::Client::open(self.url)?;
                            let mut connection = client.get_connection()?;
                            play(number, end, |key| {
                                let mut get = redis::cmd("GET");
                                get.arg(format!("{PREFIX}{key}"));
                                let value: Option<Bytes> = get.query(&mut connection)?;
                                ensure!(value.is_some(), "no value");
                                Ok(())
                            })
                        }
                        _ => bail!("unknown library '{name}'"),
                    })
                })
                .collect();
            let mut all = Histogram::<u64>::new(2)?;
            for thread in threads {
                all.add(thread.join().ok().context("a thread panicked")??)?;
            }
            anyhow::Ok(all)
        })?;
        let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        Ok(line(name, latencies.len(), seconds, cpu, &latencies))
    }
}

fn play(
    number: usize,
    end: Instant,
    mut call: impl FnMut(&str) -> Result<()>,
) -> Result<Histogram<u64>> {
    let keys: Vec<String> = (0..KEYS).map(key).collect();
    let mut latencies = Histogram::<u64>::new(2)?;
    let mut sent_at = Instant::now();
    for key in keys.iter().cycle().skip(number * 7) {
        call(key)?;
        let now = Instant::now();
        latencies.record((now - sent_at).as_nanos().try_into()?)?;
        sent_at = now;
        if now >= end {
            break;
        }
    }
    Ok(latencies)
}

/// The least that a client can do: it knows how long the reply is.
struct Wire {
    stream: TcpStream,
    reply: Vec<u8>,
}

impl Wire {
    fn open(url: &str, bytes: usize) -> Result<Self> {
        let address = url.trim_start_matches("redis://");
        let address = address.split('/').next().unwrap_or_default();
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let reply = vec![0; format!("${bytes}\r\n\r\n").len() + bytes];
        Ok(Self { stream, reply })
    }

    fn get(&mut self, key: &str) -> Result<()> {
        let length = PREFIX.len() + key.len();
        let command = format!("*2\r\n$3\r\nGET\r\n${length}\r\n{PREFIX}{key}\r\n");
        self.stream.write_all(command.as_bytes())?;
        self.stream.read_exact(&mut self.reply)?;
        Ok(())
    }
}
