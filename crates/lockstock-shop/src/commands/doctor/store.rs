//! The lock store: what Redis reports of itself, and what its user may do.

use std::time::{Duration, SystemTime};

use lockstock::{Command, Reply, Store, redact_url};

use super::finding::Finding;
use super::permissions;
use super::remote_clock::measure;
use crate::cli::store_url::explain_first_error;

/// Pages of 500 keys that are read to find keys of other applications.
const MAX_PAGES: usize = 20;

/// The store of a server, and what its locks are called.
pub(super) struct Target<'a> {
    pub(super) url: &'a str,
    pub(super) timeout: Duration,
    /// The lock name of a product without its id: what stands before and after it.
    pub(super) lock_name: (&'a str, &'a str),
}

/// The reply to `INFO`.
struct Info(String);

impl Info {
    fn get(&self, name: &str) -> &str {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default()
    }
}

/// Returns what is found of the store at a URL.
pub(super) async fn examine(target: &Target<'_>) -> Vec<Finding> {
    let url = target.url;
    if url.starts_with("memory:") {
        let what = "the locks are in the memory of the server (memory://)";
        return vec![Finding::ok("store.connection", what)];
    }
    let store = match Store::open_within(url, target.timeout) {
        Ok(store) => store,
        Err(error) => return vec![unreachable(url, error.to_string())],
    };
    let mut findings = Vec::new();
    let written = store.ping().await;
    let info = info(&store).await;
    if let Err(error) = &written {
        findings.push(unreachable(url, error.to_string()));
        // Such as a server that is a replica.
        if info.is_none() {
            return findings;
        }
    } else {
        let what = format!("{} grants locks", redact_url(url));
        findings.push(Finding::ok("store.connection", what));
    }
    let cli = redis_cli(url);
    if let Some(info) = &info {
        findings.push(version(info, url));
        findings.push(role(info, url));
        findings.push(eviction(info, &cli));
        findings.push(persistence(info, &cli));
    }
    if written.is_err() {
        return findings;
    }
    let time = Command::new("TIME").repeatable();
    let measured = measure(async || {
        let reply = store.execute(&time).await;
        system_time(reply.map_err(|error| error.to_string())?)
    });
    match measured.await {
        Ok(measured) => {
            findings.push(measured.latency("store.latency", "Redis"));
            findings.push(measured.clock(
                "store.clock",
                "Redis",
                "fences come from the clock of Redis: after a restart without data, or a failover to a \
                 server whose clock is behind, updates get 409 until that clock has caught up",
            ));
        }
        Err(error) => findings.push(Finding::warning(
            "store.latency",
            format!("not measured: {error}"),
            "the time of a reply is part of every update",
            format!("{cli} ACL SETUSER USER +time"),
        )),
    }
    findings.push(permissions::examine(&store, url, target.lock_name, &cli).await);
    if url.contains("+cluster:") {
        let what =
            "the settings are those of one node: give each node as --store redis://HOST:PORT too";
        findings.push(Finding::ok("store.nodes", what));
    } else {
        findings.extend(foreign_keys(&store, target, &cli).await);
    }
    findings
}

fn unreachable(url: &str, error: String) -> Finding {
    Finding::error(
        "store.connection",
        explain_first_error(url, error),
        "without its lock store, a server answers updates with 503",
        format!("{} PING, and --store of the server", redis_cli(url)),
    )
}

/// Returns what the server reports of itself, in a Cluster one of its nodes. `None` if the user may
/// not read it.
async fn info(store: &Store) -> Option<Info> {
    let command = Command::new("INFO").arg("default").repeatable();
    match store.execute(&command).await.ok()? {
        Reply::Text(text) => Some(Info(text)),
        Reply::Bytes(text) => Some(Info(String::from_utf8_lossy(&text).into_owned())),
        _ => None,
    }
}

fn version(info: &Info, url: &str) -> Finding {
    const CHECK: &str = "store.version";
    let valkey = info.get("valkey_version").trim();
    if !valkey.is_empty() {
        return Finding::ok(CHECK, format!("Valkey {valkey}"));
    }
    let text = info.get("redis_version").trim();
    let mut numbers = text
        .split('.')
        .map_while(|number| number.parse::<u32>().ok());
    let version = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    let is_cluster = url.contains("+cluster:");
    let oldest = if is_cluster { (7, 0) } else { (6, 2) };
    if version >= oldest {
        return Finding::ok(CHECK, format!("Redis {text}"));
    }
    Finding::error(
        CHECK,
        format!("Redis {text} is older than {}.{}", oldest.0, oldest.1),
        "its scripts lack commands that the locks need",
        "install a later Redis, or Valkey",
    )
}

fn role(info: &Info, url: &str) -> Finding {
    const CHECK: &str = "store.replicas";
    let replicas = info.get("connected_slaves").trim();
    if info.get("role").trim() != "master" {
        let master = info.get("master_host").trim();
        return Finding::error(
            CHECK,
            format!("this server is a replica of {master}"),
            "a replica grants no locks: updates get 503",
            format!(
                "--store redis://{master}:{}, or redis+sentinel://… for the master that sentinels \
                 report",
                info.get("master_port").trim()
            ),
        );
    }
    let is_single = !url.contains("+sentinel:") && !url.contains("+cluster:");
    match replicas {
        "" | "0" => Finding::ok(CHECK, "a master without replicas"),
        _ if is_single => Finding::warning(
            CHECK,
            format!("a master with {replicas} replicas, and the URL names only the master"),
            "after a failover a server would stay with the old master, beside others that use the new \
             one: two holders of one lock",
            "--store redis+sentinel://HOST:26379,HOST:26379/SERVICE",
        ),
        _ => Finding::ok(
            CHECK,
            format!(
                "a master with {replicas} replicas. A failover forgets the grants that the new master \
                 has not received; the fences in the database reject late writes"
            ),
        ),
    }
}

fn eviction(info: &Info, cli: &str) -> Finding {
    const CHECK: &str = "store.eviction";
    let policy = info.get("maxmemory_policy").trim();
    let limit = info.get("maxmemory").trim();
    if limit == "0" {
        return Finding::ok(CHECK, "no limit on memory, so no key is evicted");
    }
    if policy == "noeviction" {
        return Finding::ok(CHECK, format!("noeviction, with {limit} bytes of memory"));
    }
    Finding::error(
        CHECK,
        format!("maxmemory-policy is {policy}, with {limit} bytes of memory"),
        "a held lock has an expiry like an entry of a cache: Redis evicts it when memory is short, and \
         a second holder is granted it",
        format!("{cli} CONFIG SET maxmemory-policy noeviction, or a Redis for the locks alone"),
    )
}

fn persistence(info: &Info, cli: &str) -> Finding {
    const CHECK: &str = "store.persistence";
    let failed = [
        ("rdb_last_bgsave_status", "the last snapshot"),
        (
            "aof_last_write_status",
            "the last write to the append-only file",
        ),
    ];
    for (name, what) in failed {
        if info.get(name).trim() == "err" {
            return Finding::error(
                CHECK,
                format!("{what} has failed"),
                "Redis rejects writes until it succeeds: updates get 503",
                format!("{cli} CONFIG GET dir, and space or permissions for that folder"),
            );
        }
    }
    if info.get("aof_enabled").trim() == "1" {
        return Finding::ok(CHECK, "the append-only file is on");
    }
    Finding::warning(
        CHECK,
        "there is no append-only file",
        "when Redis restarts it forgets every lock: cool-downs end early, and a second holder is \
         granted a held lock. The fences in the database reject its late writes",
        format!("{cli} CONFIG SET appendonly yes, then {cli} CONFIG REWRITE"),
    )
}

/// Returns the time in the reply to `TIME`: seconds and microseconds.
fn system_time(reply: Reply) -> Result<SystemTime, String> {
    let Reply::Array(parts) = &reply else {
        return Err("an unknown reply to TIME".to_owned());
    };
    let mut numbers = parts.iter().map(|part| match part {
        Reply::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse::<u64>().ok(),
        _ => None,
    });
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(secs), Some(micros)) => {
            let since_epoch = Duration::from_secs(secs) + Duration::from_micros(micros);
            Ok(SystemTime::UNIX_EPOCH + since_epoch)
        }
        _ => Err("an unknown reply to TIME".to_owned()),
    }
}

/// Looks for keys of other applications. `None` if the user may not list keys.
async fn foreign_keys(store: &Store, target: &Target<'_>, cli: &str) -> Option<Finding> {
    const CHECK: &str = "store.keys";
    let (mut cursor, mut seen, mut foreign) = ("0".to_owned(), 0, Vec::new());
    for _ in 0..MAX_PAGES {
        let command = Command::new("SCAN").arg(&cursor).arg("COUNT").arg("500");
        let Reply::Array(mut page) = store.execute(&command.repeatable()).await.ok()? else {
            return None;
        };
        let (Some(Reply::Array(keys)), Some(Reply::Bytes(next))) = (page.pop(), page.pop()) else {
            return None;
        };
        for key in keys {
            if let Reply::Bytes(key) = key {
                seen += 1;
                if !is_ours(&String::from_utf8_lossy(&key), target.lock_name) {
                    foreign.push(key);
                }
            }
        }
        cursor = String::from_utf8_lossy(&next).into_owned();
        if cursor == "0" {
            break;
        }
    }
    let Some(example) = foreign.first() else {
        return Some(Finding::ok(CHECK, "no keys of other applications"));
    };
    let scope = if cursor == "0" { "" } else { "the first " };
    Some(Finding::warning(
        CHECK,
        format!(
            "{} of {scope}{seen} keys are not of this server, like {}",
            foreign.len(),
            example.escape_ascii()
        ),
        "another application uses the same database: its FLUSHDB deletes held locks, and its entries \
         fill the memory. Intended only while Django updates the same products",
        format!("--store with another database number, after {cli} INFO keyspace"),
    ))
}

fn is_ours(key: &str, (prefix, suffix): (&str, &str)) -> bool {
    let is_lock = key.starts_with(prefix) && key.ends_with(suffix);
    is_lock || key.starts_with("lockstock:")
}

/// Returns how an operator calls redis-cli for a store. The password is left out.
fn redis_cli(url: &str) -> String {
    if url.starts_with("redis://") || url.starts_with("rediss://") {
        format!("redis-cli -u {}", redact_url(url))
    } else {
        "redis-cli".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_too_old_for_the_topology_is_an_error() {
        let found = |info: &str, url| format!("{:?}", version(&Info(info.to_owned()), url));
        let (single, cluster) = ("redis://h", "redis+cluster://h");
        assert!(found("redis_version:6.2.14\r\n", single).contains("Ok"));
        assert!(found("redis_version:6.2.14\r\n", cluster).contains("older than 7.0"));
        assert!(found("redis_version:6.0.16\r\n", single).contains("older than 6.2"));
        assert!(found("redis_version:10.0.0\r\n", cluster).contains("Ok"));
        let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n";
        assert!(found(valkey, single).contains("Valkey 8.1.1"));
    }

    #[test]
    fn keys_of_the_lock_template_are_ours() {
        let template = (":1:product-", "-lock");
        for key in [":1:product-7-lock", "lockstock:{x}:queue"] {
            assert!(is_ours(key, template), "{key}");
        }
        assert!(!is_ours("session:1", template));
        assert!(!is_ours("product-7-lock", template));
    }
}
