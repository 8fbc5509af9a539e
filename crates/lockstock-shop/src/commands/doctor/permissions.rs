//! The rights of the user of the lock store: those that docs/acl.txt lists.

use lockstock::{Command, Reply, Store};

use super::finding::Finding;

/// Returns the commands that the user may not run. `false` if the server cannot tell.
const SCRIPT: &str = "
    if not redis.acl_check_cmd then return false end
    local missing = {}
    for index = 1, #ARGV do
        local words = {}
        for word in string.gmatch(ARGV[index], '%S+') do words[#words + 1] = word end
        if not redis.acl_check_cmd(unpack(words)) then missing[#missing + 1] = index end
    end
    return missing";

/// A right, and a command that needs it.
type Right = (&'static str, &'static str);

/// What every update needs.
const NEEDED: [Right; 26] = [
    ("+ping", "PING"),
    ("+select", "SELECT 0"),
    ("+subscribe &lockstock:wake:*", "SUBSCRIBE lockstock:wake:0"),
    ("+publish &lockstock:wake:*", "PUBLISH lockstock:wake:0 0"),
    ("+pubsub|numsub", "PUBSUB NUMSUB lockstock:wake:0"),
    ("+eval", "EVAL 0 0"),
    ("+evalsha", "EVALSHA 0 0"),
    ("+time", "TIME"),
    ("+get", "GET lockstock:doctor"),
    ("+set ~lockstock:*", "SET lockstock:doctor 0"),
    ("+del", "DEL lockstock:doctor"),
    ("+unlink", "UNLINK lockstock:doctor"),
    ("+persist", "PERSIST lockstock:doctor"),
    ("+exists", "EXISTS lockstock:doctor"),
    ("+pttl", "PTTL lockstock:doctor"),
    ("+pexpire", "PEXPIRE lockstock:doctor 1"),
    ("+zadd", "ZADD lockstock:doctor 0 0"),
    ("+zrem", "ZREM lockstock:doctor 0"),
    ("+zrange", "ZRANGE lockstock:doctor 0 0"),
    ("+zcard", "ZCARD lockstock:doctor"),
    ("+zscore", "ZSCORE lockstock:doctor 0"),
    ("+zremrangebyscore", "ZREMRANGEBYSCORE lockstock:doctor 0 0"),
    ("+incrby", "INCRBY lockstock:doctor 1"),
    ("+mget", "MGET lockstock:doctor"),
    ("+client|tracking", "CLIENT TRACKING ON"),
    ("+role", "ROLE"),
];

/// What `lockstock locks`, `lockstock doctor` and the live events of other servers need.
const FOR_OPERATORS: [Right; 4] = [
    ("&lockstock:board*", "SUBSCRIBE lockstock:board@1"),
    ("+scan", "SCAN 0"),
    ("+getrange", "GETRANGE lockstock:doctor 0 0"),
    ("+info", "INFO"),
];

/// What a Cluster needs.
const OF_CLUSTER: [Right; 6] = [
    ("+ssubscribe", "SSUBSCRIBE lockstock:wake:0"),
    ("+spublish", "SPUBLISH lockstock:wake:0 0"),
    ("+pubsub|shardnumsub", "PUBSUB SHARDNUMSUB lockstock:wake:0"),
    ("+cluster|slots", "CLUSTER SLOTS"),
    ("+cluster|info", "CLUSTER INFO"),
    ("+asking", "ASKING"),
];

/// Checks what the user of the store may do. Runs none of the commands.
pub(super) async fn examine(
    store: &Store,
    url: &str,
    (prefix, suffix): (&str, &str),
    cli: &str,
) -> Finding {
    const CHECK: &str = "store.permissions";
    let mut rights = NEEDED
        .iter()
        .chain(&FOR_OPERATORS)
        .map(|(right, command)| ((*right).to_owned(), (*command).to_owned()))
        .collect::<Vec<_>>();
    rights.push((
        format!("~{prefix}*{suffix}"),
        format!("SET {prefix}0{suffix} 0"),
    ));
    // A single server of an earlier version does not know all of these.
    if url.contains("+cluster:") {
        let of_cluster = OF_CLUSTER.iter();
        rights.extend(of_cluster.map(|(right, command)| ((*right).into(), (*command).into())));
    }
    let mut script = Command::new("EVAL").arg(SCRIPT).arg("1");
    script = script.arg("lockstock:doctor");
    for (_, command) in &rights {
        script = script.arg(command);
    }
    let missing = match store.execute(&script.repeatable()).await {
        Ok(Reply::Array(missing)) => missing,
        Ok(_) => {
            let what = "not checked: before version 7.0, Redis cannot report what a user may do";
            return Finding::ok(CHECK, what);
        }
        Err(error) => {
            return Finding::warning(
                CHECK,
                format!("not checked: {error}"),
                "a right that is missing shows only when an update needs it",
                "compare the user with docs/acl.txt",
            );
        }
    };
    let missing = missing
        .iter()
        .filter_map(|index| match index {
            Reply::Integer(index) => rights.get(usize::try_from(index - 1).ok()?),
            _ => None,
        })
        .map(|(right, _)| &right[..])
        .collect::<Vec<_>>();
    if missing.is_empty() {
        return Finding::ok(CHECK, "the user has the rights of docs/acl.txt");
    }
    let for_operators = |right: &&str| FOR_OPERATORS.iter().any(|(known, _)| known == right);
    let what = format!("the user lacks {}", missing.join(" "));
    let user = user(url);
    let change = format!("{cli} ACL SETUSER {user} {}", missing.join(" "));
    if missing.iter().all(for_operators) {
        let why = "`lockstock locks`, live events and this command show less";
        return Finding::warning(CHECK, what, why, change);
    }
    let why = "an update, a hand-over or a recovery that needs it fails with NOPERM, so that updates get \
               503 or wait too long";
    Finding::error(CHECK, what, why, change)
}

/// Returns the user in a URL.
fn user(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let user = rest.rsplit_once('@').map(|(user, _)| user);
    let user = user.and_then(|user| user.split(':').next());
    user.filter(|user| !user.is_empty()).unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use super::user;

    #[test]
    fn the_user_of_a_url_is_that_of_redis() {
        assert_eq!(user("redis://locks:p@w@h:1/0"), "locks");
        assert_eq!(user("redis://:pw@h"), "default");
        assert_eq!(user("redis+sentinel://a:b@h,i/s"), "a");
        assert_eq!(user("redis://h"), "default");
    }
}
