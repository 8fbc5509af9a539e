//! How many commands the processes sent, by the account of the Redis itself.
//!
//! `INFO commandstats` (and `total_commands_processed` just so) counts a command that a script
//! calls like one that a client sends, and nothing in `INFO` tells the two apart. `MONITOR`
//! does: the former come from `lua`. So `INFO` counts, over all the time, and a short look with
//! `MONITOR` afterwards says which share of each kind of command clients had sent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{Client, Connection, cmd};

const ANSWER: Duration = Duration::from_secs(5);
/// As many lines say it as well as all.
const MOST_LINES: usize = 50_000;
/// What no script may call: a client sent it, seen or not.
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
/// Calls of kinds that were not seen, of all calls: more than that, and too little was seen.
const MOST_UNSEEN: f64 = 0.01;
/// But a few are no reason for doubt.
const FEW: u64 = 10;
/// What this module itself sends.
const OWN: [&str; 2] = ["info", "monitor"];

/// Calls of each command, as the server has counted them.
type Calls = HashMap<String, u64>;

pub(super) struct Counter {
    asking: Connection,
    before: Calls,
    /// Of each command seen: sent by clients, and in all.
    shares: HashMap<String, (u64, u64)>,
    looking: Connection,
    /// Why there was nothing to be seen.
    blind: Option<String>,
}

impl Counter {
    /// From here on it counts. Says why it cannot, if it cannot.
    pub(super) fn open(url: &str) -> Result<Self, String> {
        let connect = || {
            // Not redis's own words: it quotes the URL in some.
            let client = Client::open(url).map_err(|error| error.category().to_owned())?;
            let connection = client.get_connection_with_timeout(ANSWER);
            let connection = connection.map_err(|error| error.to_string())?;
            let limited = connection.set_read_timeout(Some(ANSWER));
            limited.map_err(|error| error.to_string())?;
            Ok::<_, String>(connection)
        };
        // Both connections first: a handshake is a command too.
        let (mut asking, looking) = (connect()?, connect()?);
        let before = calls(&mut asking)?;
        Ok(Self {
            asking,
            before,
            shares: HashMap::new(),
            looking,
            blind: None,
        })
    }

    /// Looks at what is sent, for so long.
    pub(super) fn look(&mut self, time: Duration) {
        if let Err(error) = self.try_look(time) {
            self.blind = Some(format!("MONITOR: {error}"));
        }
    }

    fn try_look(&mut self, time: Duration) -> redis::RedisResult<()> {
        // Its answers come as those of no other command, one after another.
        cmd("MONITOR").query::<()>(&mut self.looking)?;
        let end = Instant::now() + time;
        for _ in 0..MOST_LINES {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.looking.set_read_timeout(Some(left))?;
            let Ok(line) = self.looking.recv_response() else {
                // Nobody sent anything more.
                break;
            };
            let line: String = redis::from_redis_value(line)?;
            if let Some((command, by_client)) = seen(&line) {
                let (clients, all) = self.shares.entry(command).or_default();
                *clients += u64::from(by_client);
                *all += 1;
            }
        }
        Ok(())
    }

    /// Commands sent by clients since it was opened, for each acquisition.
    pub(super) fn commands(mut self, acquisitions: u64) -> Result<f64, String> {
        let after = calls(&mut self.asking)?;
        if let Some(why) = self.blind {
            return Err(why);
        }
        if acquisitions == 0 {
            return Err("nothing was acquired".to_owned());
        }
        let made = after.into_iter().map(|(command, calls)| {
            let before = self.before.get(&command).copied().unwrap_or(0);
            (command, calls.saturating_sub(before))
        });
        Ok(sent(made, &self.shares)? / acquisitions as f64)
    }
}

/// How many of these calls were sent by clients.
fn sent(
    made: impl Iterator<Item = (String, u64)>,
    shares: &HashMap<String, (u64, u64)>,
) -> Result<f64, String> {
    let (mut sent, mut all, mut unseen) = (0.0, 0, 0);
    for (command, calls) in made {
        // `client|setinfo`: MONITOR shows them by their first word.
        let first = command.split('|').next().unwrap_or(&command);
        if OWN.contains(&first) {
            continue;
        }
        all += calls;
        sent += calls as f64
            * match shares.get(first) {
                Some((clients, all)) => *clients as f64 / *all as f64,
                None if NEVER_IN_SCRIPTS.contains(&first) => 1.0,
                None => {
                    unseen += calls;
                    1.0
                }
            };
    }
    if unseen > FEW && unseen as f64 > all as f64 * MOST_UNSEEN {
        return Err("MONITOR showed too little in its moment: is the machine busy?".to_owned());
    }
    Ok(sent)
}

fn calls(connection: &mut Connection) -> Result<Calls, String> {
    let asked = cmd("INFO").arg("commandstats").query(connection);
    let text: String = asked.map_err(|error| format!("INFO: {error}"))?;
    Ok(text.lines().filter_map(counted).collect())
}

/// `cmdstat_get:calls=21,usec=175,…`
fn counted(line: &str) -> Option<(String, u64)> {
    let (command, figures) = line.strip_prefix("cmdstat_")?.split_once(':')?;
    let calls = figures.strip_prefix("calls=")?.split(',').next()?;
    Some((command.to_owned(), calls.parse().ok()?))
}

/// `1339518083.107412 [0 127.0.0.1:60866] "get" "x"`, or `[0 lua]` if a script called it.
fn seen(line: &str) -> Option<(String, bool)> {
    let (from, words) = line.split_once(" [")?.1.split_once("] \"")?;
    let command = words.split('"').next()?;
    Some((command.to_lowercase(), !from.ends_with(" lua")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_redis_are_understood() {
        let line = "cmdstat_client|setinfo:calls=12,usec=5,usec_per_call=0.42";
        assert_eq!(counted(line), Some(("client|setinfo".into(), 12)));
        assert_eq!(counted("# Commandstats"), None);
        let line = r#"1339518083.107412 [0 127.0.0.1:60866] "EVALSHA" "a] \"b" "#;
        assert_eq!(seen(line), Some(("evalsha".into(), true)));
        let line = r#"1339518083.107412 [15 lua] "get" "x""#;
        assert_eq!(seen(line), Some(("get".into(), false)));
        assert_eq!(seen("OK"), None);
    }

    #[test]
    fn what_scripts_call_is_not_sent_and_what_was_not_seen_is_not_guessed() {
        let made = [
            ("evalsha", 100),
            ("get", 300),
            ("client|setinfo", 2),
            ("info", 1),
        ];
        let made = || {
            made.iter()
                .map(|(name, calls)| (String::from(*name), *calls))
        };
        let shares = HashMap::from([("get".into(), (1, 3))]);
        assert_eq!(sent(made(), &shares), Ok(202.0));
        assert!(sent(made(), &HashMap::new()).is_err());
    }
}
