//! The shop through its binary, over real HTTP, on real databases and a real Redis.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod bench;
mod board;
mod bodies;
mod cli;
mod commit_faults;
mod configuration;
mod crash_recovery;
mod database_file;
mod deployment;
mod django_redis;
mod doctor;
mod doctor_databases;
mod doctor_files;
mod hangup;
mod harness;
mod http2_floods;
mod idempotency;
mod import_export;
mod installation;
mod languages;
mod listening;
mod locks;
mod malformed_requests;
mod monitoring;
mod operations;
mod outages;
mod pgbouncer;
mod postgres_tls;
mod proxies;
mod race;
mod readiness;
mod sales;
mod secrets;
mod tls;
mod top;
#[cfg(feature = "otlp")]
mod traces;
mod update_lock;
mod updates;
mod upgrades;
