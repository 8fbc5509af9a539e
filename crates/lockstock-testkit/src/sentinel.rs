//! A master, its replica, and the sentinels that monitor them.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::port::free_port;
use crate::process::{Process, poll};
use crate::redis::{Redis, address, call, log, program, ready, run};
use crate::scratch::Scratch;

const SETTLE: Duration = Duration::from_secs(60);
const SERVICE: &str = "shop";
const SENTINELS: usize = 3;
const PORTS: usize = 10;

/// A Redis master, one replica, and three sentinels that replace the master by
/// the replica when it has been silent for a second and a half.
///
/// Starting takes about two seconds, a failover another three.
///
/// ```
/// use lockstock_testkit::Sentinel;
///
/// let sentinel = Sentinel::start();
/// assert!(sentinel.url().starts_with("redis+sentinel://127.0.0.1:"));
/// let old = sentinel.master();
/// sentinel.kill_master();
/// let new = sentinel.await_failover(old);
/// assert_ne!(new, old);
/// assert_eq!(sentinel.command(&["SET", "stock", "1"]), Ok("OK".into()));
/// ```
pub struct Sentinel {
    watchers: Vec<Watcher>,
    nodes: Vec<Redis>,
}

struct Watcher {
    // Before the folder: fields are dropped in order.
    process: Process,
    paused: AtomicBool,
    address: SocketAddr,
    folder: Scratch,
}

impl Sentinel {
    /// Starts all five, and waits until the sentinels know each other and the
    /// replica has the data of the master.
    pub fn start() -> Sentinel {
        Sentinel::start_with(&[])
    }

    /// As [`start`](Sentinel::start), with further arguments for the master
    /// and the replica. With
    /// `--requirepass`, replica and sentinels know the password.
    pub fn start_with(arguments: &[&str]) -> Sentinel {
        let password = arguments
            .iter()
            .position(|&text| text == "--requirepass")
            .and_then(|at| arguments.get(at + 1).copied());
        let mut all = vec!["--repl-diskless-sync-delay", "0"];
        all.extend(arguments);
        if let Some(password) = password {
            all.extend(["--masterauth", password]);
        }
        let master = Redis::start_with(&all);
        let port = master.address().port().to_string();
        all.extend(["--replicaof", "127.0.0.1", &port]);
        let replica = Redis::start_with(&all);
        let master_address = master.address();
        let watchers = thread::scope(|scope| {
            let start = || Watcher::start(master_address, password);
            let starting: Vec<_> = (0..SENTINELS).map(|_| scope.spawn(start)).collect();
            let started = starting.into_iter().map(|watcher| watcher.join());
            started
                .map(|watcher| watcher.expect("a sentinel"))
                .collect()
        });
        let sentinel = Sentinel {
            watchers,
            nodes: vec![master, replica],
        };
        sentinel.await_ready();
        sentinel
    }

    /// `redis+sentinel://127.0.0.1:PORT,127.0.0.1:PORT,127.0.0.1:PORT/shop/0`,
    /// without a password even if there is one.
    pub fn url(&self) -> String {
        let watchers: Vec<_> = self.sentinels().iter().map(SocketAddr::to_string).collect();
        format!("redis+sentinel://{}/{SERVICE}/0", watchers.join(","))
    }

    /// Returns the addresses of the sentinels.
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        self.watchers
            .iter()
            .map(|watcher| watcher.address)
            .collect()
    }

    /// Returns the address of the master according to most running sentinels.
    pub fn master(&self) -> SocketAddr {
        let agreed = poll(SETTLE, || {
            let running: Vec<_> = self.running().collect();
            let named: Vec<_> = running
                .iter()
                .filter_map(|watcher| watcher.master())
                .collect();
            let votes = |address| named.iter().filter(|&&other| other == address).count();
            let most = |&address: &SocketAddr| 2 * votes(address) > running.len();
            named.iter().copied().find(most)
        });
        agreed.expect("sentinels that agree")
    }

    /// Returns both servers, the original master first.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Returns the server that listens at `address`.
    pub fn node(&self, address: SocketAddr) -> &Redis {
        let found = self.nodes.iter().find(|node| node.address() == address);
        found.unwrap_or_else(|| panic!("no server at {address}"))
    }

    /// Sends one command to the master, and returns the reply as
    /// [`Redis::command`] does.
    pub fn command(&self, words: &[&str]) -> Result<String, String> {
        self.node(self.master()).command(words)
    }

    /// Sends SIGKILL to the master, which stays down until
    /// [`restart`](Sentinel::restart).
    pub fn kill_master(&self) {
        self.node(self.master()).kill();
    }

    /// Sends SIGSTOP to the master. When it [resumes](Redis::resume), it acts
    /// as a master until a sentinel demotes it.
    pub fn pause_master(&self) {
        self.node(self.master()).pause();
    }

    /// Makes a running sentinel replace the master, healthy or not. The others need not agree.
    pub fn fail_over(&self) -> SocketAddr {
        let old = self.master();
        let asked = poll(SETTLE, || {
            let words = ["SENTINEL", "FAILOVER", SERVICE];
            // Rejected until the last failover has ended.
            call(self.running().next()?.address, None, &words).ok()
        });
        assert!(asked.is_some(), "no failover was begun");
        self.await_failover(old)
    }

    /// Waits until the server that is not `old` is the master, according to
    /// itself and to all running sentinels, and returns its address.
    pub fn await_failover(&self, old: SocketAddr) -> SocketAddr {
        let other = self.nodes.iter().find(|node| node.address() != old);
        let other = other.expect("there are two");
        let replaced = poll(SETTLE, || {
            let agreed = self
                .running()
                .map(Watcher::master)
                .all(|master| master == Some(other.address()));
            let role = other.command(&["ROLE"]).ok()?;
            (agreed && role.starts_with("master")).then_some(())
        });
        if replaced.is_none() {
            panic!("{} never replaced {old}:\n{}", other.address(), self.log());
        }
        other.address()
    }

    /// Starts a dead server again, empty. It starts in its former role, and a
    /// sentinel turns it into a replica of its successor.
    pub fn restart(&self, server: SocketAddr) {
        self.node(server).restart();
    }

    /// Waits until `server` is a replica with the data of its master, and all
    /// sentinels know it: a sentinel that does not would demote it after the
    /// next failover.
    pub fn await_replica(&self, server: SocketAddr) {
        let name = format!("name\n{server}\n");
        let obeys = poll(SETTLE, || {
            let role = self.node(server).command(&["ROLE"]).ok()?;
            let mut words = role.lines();
            let is = words.next() == Some("slave") && words.nth(2) == Some("connected");
            let known = self.running().map(Watcher::replicas).all(|replicas| {
                let about = replicas.find(&name).map(|at| &replicas[at..]);
                let says = |line| about.is_some_and(|about| about.contains(line));
                says("\nrole-reported\nslave\n") && says("\nmaster-link-status\nok\n")
            });
            (is && known).then_some(())
        });
        if obeys.is_none() {
            panic!("{server} never became a replica:\n{}", self.log());
        }
    }

    /// Waits until the replica has all current data of the master. Later
    /// writes may be lost with the master.
    pub fn await_copied(&self) {
        let master = self.master();
        let replicas = self.nodes.iter().filter(|node| node.address() != master);
        replicas.for_each(|replica| self.node(master).await_copied_to(replica));
    }

    /// Sends SIGKILL to one of the sentinels, by its index in
    /// [`sentinels`](Sentinel::sentinels). Two are enough for a failover.
    pub fn kill_sentinel(&self, number: usize) {
        self.watchers[number].process.kill();
    }

    /// Sends SIGSTOP to one of the sentinels: its connections stay open, and it replies to
    /// nothing until it is [resumed](Sentinel::resume_sentinel).
    pub fn pause_sentinel(&self, number: usize) {
        self.watchers[number].process.pause();
        self.watchers[number].paused.store(true, Ordering::SeqCst);
    }

    /// Sends SIGCONT to one of the sentinels.
    pub fn resume_sentinel(&self, number: usize) {
        self.watchers[number].paused.store(false, Ordering::SeqCst);
        self.watchers[number].process.resume();
    }

    fn running(&self) -> impl Iterator<Item = &Watcher> {
        self.watchers.iter().filter(|watcher| watcher.runs())
    }

    /// Returns the logs of the sentinels, one after the other.
    pub fn log(&self) -> String {
        let logs = self.watchers.iter().map(|watcher| log(&watcher.folder));
        logs.collect::<Vec<_>>().join("\n")
    }

    fn await_ready(&self) {
        let ready = poll(SETTLE, || {
            let all = self.watchers.iter().all(|watcher| {
                let info = watcher.info();
                info.contains("\nnum-slaves\n1\n")
                    && info.contains(&format!("\nnum-other-sentinels\n{}\n", SENTINELS - 1))
            });
            all.then_some(())
        });
        assert!(ready.is_some(), "the sentinels never met");
        // A sentinel waits four periods before it corrects a server that
        // contradicts the others: earlier it would undo a failover that it
        // does not know yet.
        for watcher in &self.watchers {
            hurry(watcher.address, &["PUBLISH-PERIOD", "800"]);
        }
        self.await_replica(self.nodes[1].address());
    }
}

impl Watcher {
    fn start(master: SocketAddr, password: Option<&str>) -> Watcher {
        for _ in 0..PORTS {
            let (folder, port) = (Scratch::new("sentinel"), free_port());
            // Sentinels write their state to it.
            let file = folder.path().join("sentinel.conf");
            let mut text = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\n\
                 sentinel monitor {SERVICE} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {SERVICE} 1500\n\
                 sentinel failover-timeout {SERVICE} 3000\n",
                folder.path().display(),
                master.port(),
            );
            if let Some(password) = password {
                text += &format!("sentinel auth-pass {SERVICE} {password}\n");
            }
            fs::write(&file, text).unwrap_or_else(|error| panic!("cannot write {file:?}: {error}"));
            let mut command = Command::new(program());
            command.arg(&file).arg("--sentinel");
            let process = run(command, &folder);
            if ready(&process, port, None, &folder) {
                // With the default period a test waits for ten seconds and
                // more. But the first ping is sent after one period and must
                // be answered before the server counts as down, and the last
                // report of a replica must not be older than five.
                hurry(address(port), &["PING-PERIOD", "500", "INFO-PERIOD", "200"]);
                hurry(address(port), &["PUBLISH-PERIOD", "200"]);
                return Watcher {
                    process,
                    paused: AtomicBool::new(false),
                    address: address(port),
                    folder,
                };
            }
        }
        panic!("every one of {PORTS} ports was taken for a sentinel");
    }

    fn runs(&self) -> bool {
        self.process.exited().is_none() && !self.paused.load(Ordering::SeqCst)
    }

    fn master(&self) -> Option<SocketAddr> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
        let answer = call(self.address, None, &words).ok()?;
        let (host, port) = answer.split_once('\n')?;
        format!("{host}:{port}").parse().ok()
    }

    fn replicas(&self) -> String {
        let words = ["SENTINEL", "REPLICAS", SERVICE];
        call(self.address, None, &words).unwrap_or_default()
    }

    fn info(&self) -> String {
        call(self.address, None, &["SENTINEL", "MASTER", SERVICE]).unwrap_or_default()
    }
}

fn hurry(sentinel: SocketAddr, periods: &[&str]) {
    let words = [&["SENTINEL", "DEBUG"], periods].concat();
    call(sentinel, None, &words).expect("a sentinel that can be hurried");
}
