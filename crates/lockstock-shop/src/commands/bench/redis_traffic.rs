//! The number of commands that clients sent to Redis, as Redis counts them.
//!
//! `INFO commandstats` counts commands that scripts call together with those that clients send,
//! and so does `total_commands_processed`. `MONITOR` distinguishes them: a script's command has
//! the source `lua`. So `INFO` counts over the whole bench, and a short sample with `MONITOR`
//! afterwards gives the share of each command that clients sent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{Client, Connection, cmd};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Enough for shares that more lines would not change.
const MAX_LINES: usize = 50_000;
/// Commands that scripts cannot call: all of their calls come from clients.
const NEVER_IN_SCRIPTS: [&str; 12] = [
    "eval",
    "evalsha",
    "fcall",
    "script",
    "multi",
    "exec",
    "hello",
    "client",
    "auth",
    "subscribe",
    "ssubscribe",
    "unsubscribe",
];
/// Largest share of calls whose command never appeared in the sample; above it the sample is
/// too small.
const MAX_UNSEEN_SHARE: f64 = 0.01;
/// Number of unseen calls that is always accepted.
const MIN_UNSEEN_CALLS: u64 = 10;
/// Commands that this module sends.
const OWN_COMMANDS: [&str; 2] = ["info", "monitor"];

/// Number of calls by command.
type CallCounts = HashMap<String, u64>;

/// How often a command appeared in the sample.
#[derive(Debug, Default, Clone, Copy)]
struct Sampled {
    by_clients: u64,
    total: u64,
}

type Sample = HashMap<String, Sampled>;

pub(super) struct CommandCounter {
    info: Connection,
    monitor: Connection,
    before: CallCounts,
    sample: Sample,
    sample_error: Option<String>,
}

impl CommandCounter {
    /// Starts counting. Returns the reason if the store cannot be counted.
    pub(super) fn open(url: &str) -> Result<Self, String> {
        let connect = || {
            // Only the category: some messages of redis-rs quote the URL with its password.
            let client = Client::open(url).map_err(|error| error.category().to_owned())?;
            let connection = client.get_connection_with_timeout(TIMEOUT);
            let connection = connection.map_err(|error| error.to_string())?;
            let limited = connection.set_read_timeout(Some(TIMEOUT));
            limited.map_err(|error| error.to_string())?;
            Ok::<_, String>(connection)
        };
        // Before the first count, because a handshake is a command too.
        let (mut info, monitor) = (connect()?, connect()?);
        let before = call_counts(&mut info)?;
        Ok(Self {
            info,
            monitor,
            before,
            sample: Sample::new(),
            sample_error: None,
        })
    }

    /// Samples commands with `MONITOR` for `time`.
    pub(super) fn sample(&mut self, time: Duration) {
        if let Err(error) = self.try_sample(time) {
            self.sample_error = Some(format!("MONITOR: {error}"));
        }
    }

    fn try_sample(&mut self, time: Duration) -> redis::RedisResult<()> {
        cmd("MONITOR").query::<()>(&mut self.monitor)?;
        let end = Instant::now() + time;
        for _ in 0..MAX_LINES {
            let remaining = end.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                break;
            }
            self.monitor.set_read_timeout(Some(remaining))?;
            // Times out if no command was sent.
            let Ok(line) = self.monitor.recv_response() else {
                break;
            };
            let line: String = redis::from_redis_value(line)?;
            if let Some((command, by_client)) = parse_monitor(&line) {
                let sampled = self.sample.entry(command).or_default();
                sampled.by_clients += u64::from(by_client);
                sampled.total += 1;
            }
        }
        Ok(())
    }

    /// Returns the commands that clients have sent since `open`, divided by `acquisitions`.
    pub(super) fn per_acquisition(mut self, acquisitions: u64) -> Result<f64, String> {
        let after = call_counts(&mut self.info)?;
        if let Some(error) = self.sample_error {
            return Err(error);
        }
        if acquisitions == 0 {
            return Err("no lock was acquired".to_owned());
        }
        let calls = after.into_iter().map(|(command, calls)| {
            let before = self.before.get(&command).copied().unwrap_or(0);
            (command, calls.saturating_sub(before))
        });
        Ok(sent_by_clients(calls, &self.sample)? / acquisitions as f64)
    }
}

fn sent_by_clients(
    calls: impl Iterator<Item = (String, u64)>,
    sample: &Sample,
) -> Result<f64, String> {
    let (mut sent, mut total, mut unseen) = (0.0, 0, 0);
    for (command, calls) in calls {
        // `client|setinfo` appears in MONITOR as `client`.
        let first = command.split('|').next().unwrap_or(&command);
        if OWN_COMMANDS.contains(&first) {
            continue;
        }
        total += calls;
        sent += calls as f64
            * match sample.get(first) {
                Some(sampled) => sampled.by_clients as f64 / sampled.total as f64,
                None if NEVER_IN_SCRIPTS.contains(&first) => 1.0,
                None => {
                    unseen += calls;
                    1.0
                }
            };
    }
    if unseen > MIN_UNSEEN_CALLS && unseen as f64 > total as f64 * MAX_UNSEEN_SHARE {
        return Err("MONITOR sampled too little: is the machine busy?".to_owned());
    }
    Ok(sent)
}

fn call_counts(connection: &mut Connection) -> Result<CallCounts, String> {
    let reply = cmd("INFO").arg("commandstats").query(connection);
    let text: String = reply.map_err(|error| format!("INFO: {error}"))?;
    Ok(text.lines().filter_map(parse_commandstat).collect())
}

/// Parses a line like `cmdstat_get:calls=21,usec=175,…`.
fn parse_commandstat(line: &str) -> Option<(String, u64)> {
    let (command, stats) = line.strip_prefix("cmdstat_")?.split_once(':')?;
    let calls = stats.strip_prefix("calls=")?.split(',').next()?;
    Some((command.to_owned(), calls.parse().ok()?))
}

/// Parses a line like `1339518083.107412 [0 127.0.0.1:60866] "get" "x"`. Returns the command and
/// whether a client sent it: the source is `[0 lua]` if a script called it.
fn parse_monitor(line: &str) -> Option<(String, bool)> {
    let (source, words) = line.split_once(" [")?.1.split_once("] \"")?;
    let command = words.split('"').next()?;
    Some((command.to_lowercase(), !source.ends_with(" lua")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_redis_are_parsed() {
        let line = "cmdstat_client|setinfo:calls=12,usec=5,usec_per_call=0.42";
        assert_eq!(parse_commandstat(line), Some(("client|setinfo".into(), 12)));
        assert_eq!(parse_commandstat("# Commandstats"), None);
        let line = r#"1339518083.107412 [0 127.0.0.1:60866] "EVALSHA" "a] \"b" "#;
        assert_eq!(parse_monitor(line), Some(("evalsha".into(), true)));
        let line = r#"1339518083.107412 [15 lua] "get" "x""#;
        assert_eq!(parse_monitor(line), Some(("get".into(), false)));
        assert_eq!(parse_monitor("OK"), None);
    }

    #[test]
    fn commands_of_scripts_are_not_counted_and_unseen_ones_are_not_guessed() {
        let calls = [
            ("evalsha", 100),
            ("get", 300),
            ("client|setinfo", 2),
            ("info", 1),
        ];
        let calls = || {
            calls
                .iter()
                .map(|(name, count)| (String::from(*name), *count))
        };
        let get = Sampled {
            by_clients: 1,
            total: 3,
        };
        let sample = Sample::from([("get".into(), get)]);
        assert_eq!(sent_by_clients(calls(), &sample), Ok(202.0));
        assert!(sent_by_clients(calls(), &Sample::new()).is_err());
    }
}
