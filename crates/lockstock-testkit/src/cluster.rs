//! A private Redis Cluster.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::port::free_port;
use crate::process::poll;
use crate::redis::Redis;

/// Includes the start: a new master serves only after two seconds.
const SETTLE: Duration = Duration::from_secs(60);
const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
/// Keys that one step of a move migrates.
const STEP: usize = 10;

/// A Redis Cluster owned by this value: three masters with a third of the
/// slots each, and a replica of each. A replica replaces its master after a
/// second of silence.
///
/// Starting takes two to three seconds.
///
/// ```
/// use lockstock_testkit::Cluster;
///
/// let cluster = Cluster::start();
/// assert_eq!(cluster.command("stock", &["SET", "stock", "1"]), Ok("OK".into()));
///
/// let (from, slot) = (cluster.owner("stock"), Cluster::slot("stock"));
/// let to = cluster.masters().into_iter().find(|&master| master != from).unwrap();
/// cluster.move_slot(slot, to);
/// assert_eq!(cluster.owner("stock"), to);
/// assert_eq!(cluster.command("stock", &["GET", "stock"]), Ok("1".into()));
/// ```
pub struct Cluster {
    nodes: Vec<Redis>,
}

/// Ranges, both ends included.
type Slots = Vec<(usize, usize)>;

/// A line of `CLUSTER NODES`.
struct Node {
    id: String,
    address: SocketAddr,
    flags: String,
    master: String,
    /// If two nodes claim a slot, the higher epoch owns it.
    epoch: u64,
    slots: Slots,
}

impl Node {
    /// Whether the queried node sees it as a master that serves slots.
    fn serves(&self) -> bool {
        let is = |flag| self.flags.split(',').any(|is| is == flag);
        is("master") && !is("fail") && !self.slots.is_empty()
    }
}

impl Cluster {
    /// Starts six servers, joins them into a cluster, and waits until it
    /// serves.
    pub fn start() -> Cluster {
        Cluster::start_with(&[])
    }

    /// As [`start`](Cluster::start), with further arguments for each server.
    pub fn start_with(arguments: &[&str]) -> Cluster {
        let nodes = thread::scope(|scope| {
            let start = || {
                let bus = free_port().to_string();
                let mut all = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
                all.extend(["--cluster-node-timeout", "1000"]);
                // A replica that was cut off for a while may be elected, too.
                all.extend(["--cluster-replica-validity-factor", "0"]);
                all.extend(["--repl-diskless-sync-delay", "0"]);
                all.extend(arguments);
                (Redis::start_with(&all), bus)
            };
            let starting: Vec<_> = (0..2 * MASTERS).map(|_| scope.spawn(start)).collect();
            let started = starting.into_iter().map(|node| node.join());
            started
                .map(|node| node.expect("a server"))
                .collect::<Vec<_>>()
        });
        // Before the nodes meet: a node that has met another rejects this.
        for (number, (node, _)) in nodes.iter().enumerate() {
            let epoch = (number + 1).to_string();
            order(node, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
        }
        for (number, (node, _)) in nodes.iter().enumerate() {
            for (other, bus) in &nodes[number + 1..] {
                let port = other.address().port().to_string();
                order(node, &["CLUSTER", "MEET", "127.0.0.1", &port, bus]);
            }
        }
        let cluster = Cluster {
            nodes: nodes.into_iter().map(|(node, _)| node).collect(),
        };
        cluster.share_out();
        cluster
    }

    fn share_out(&self) {
        let (masters, replicas) = self.nodes.split_at(MASTERS);
        for (number, master) in masters.iter().enumerate() {
            let from = (number * SLOTS / MASTERS).to_string();
            let to = ((number + 1) * SLOTS / MASTERS - 1).to_string();
            order(master, &["CLUSTER", "ADDSLOTSRANGE", &from, &to]);
        }
        for (master, replica) in masters.iter().zip(replicas) {
            let id = order(master, &["CLUSTER", "MYID"]);
            // The node rejects this until it knows its master.
            let obeyed = poll(SETTLE, || {
                replica.command(&["CLUSTER", "REPLICATE", &id]).ok()
            });
            assert!(obeyed.is_some(), "a replica never met its master");
        }
        self.await_ok();
        for replica in replicas {
            let linked = poll(SETTLE, || {
                let info = replica.command(&["INFO", "replication"]).ok()?;
                info.contains("master_link_status:up").then_some(())
            });
            assert!(linked.is_some(), "a replica never reached its master");
        }
    }

    /// `redis+cluster://127.0.0.1:PORT,127.0.0.1:PORT,…` with all six nodes.
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.address().to_string())
            .collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// Returns all nodes, dead ones included: first the three original
    /// masters, then the replica of each.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Returns the node that listens at `address`.
    pub fn node(&self, address: SocketAddr) -> &Redis {
        let found = self.nodes.iter().find(|node| node.address() == address);
        found.unwrap_or_else(|| panic!("no node at {address}"))
    }

    /// Returns the addresses of the current masters, in the order of their
    /// slots.
    pub fn masters(&self) -> Vec<SocketAddr> {
        let mut serving: Vec<_> = self.view().into_iter().filter(Node::serves).collect();
        serving.sort_by_key(|node| node.slots[0]);
        serving.into_iter().map(|node| node.address).collect()
    }

    /// Returns the master that serves the slot of `key`.
    pub fn owner(&self, key: &str) -> SocketAddr {
        self.owner_of(Cluster::slot(key))
    }

    fn owner_of(&self, slot: u16) -> SocketAddr {
        let slot = usize::from(slot);
        let has = |node: &Node| {
            let mut ranges = node.slots.iter();
            node.serves() && ranges.any(|&(from, to)| (from..=to).contains(&slot))
        };
        let found = self.view().into_iter().find(has);
        found
            .unwrap_or_else(|| panic!("no master serves slot {slot}"))
            .address
    }

    /// Returns the slot of a key, by its hash tag if it has one.
    ///
    /// ```
    /// # use lockstock_testkit::Cluster;
    /// assert_eq!(Cluster::slot("123456789"), 0x31c3);
    /// assert_eq!(Cluster::slot("lockstock:{a}:fence"), Cluster::slot("a"));
    /// ```
    pub fn slot(key: &str) -> u16 {
        let tag = key
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(tag, _)| tag)
            .filter(|tag| !tag.is_empty())
            .unwrap_or(key);
        let crc = tag.bytes().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
            })
        });
        crc % SLOTS as u16
    }

    /// Sends one command to the master that serves the slot of `key`, and
    /// returns the reply as [`Redis::command`] does.
    pub fn command(&self, key: &str, words: &[&str]) -> Result<String, String> {
        self.node(self.owner(key)).command(words)
    }

    /// Moves a slot with its keys to another master while the cluster serves.
    pub fn move_slot(&self, slot: u16, to: SocketAddr) {
        let moving = self.begin_move(slot, to);
        while moving.step(STEP) > 0 {}
        moving.finish();
    }

    /// Moves a slot in steps. Between them the slot is on two nodes, which
    /// redirect clients (`ASK`, `TRYAGAIN`).
    pub fn begin_move(&self, slot: u16, to: SocketAddr) -> SlotMove<'_> {
        let (from, to) = (self.node(self.owner_of(slot)), self.node(to));
        let id = |node: &Redis| order(node, &["CLUSTER", "MYID"]);
        let moving = SlotMove {
            cluster: self,
            slot: slot.to_string(),
            from_id: id(from),
            to_id: id(to),
            from,
            to,
        };
        moving.set(to, &["IMPORTING", &moving.from_id]);
        moving.set(from, &["MIGRATING", &moving.to_id]);
        moving
    }

    /// Sends SIGKILL to a node, which stays down until
    /// [`restart`](Cluster::restart).
    pub fn kill(&self, node: SocketAddr) {
        self.node(node).kill();
    }

    /// Starts a dead node again. It has lost its keys but not its role.
    pub fn restart(&self, node: SocketAddr) {
        self.node(node).restart();
    }

    /// Waits until the replica of `master` has all current data of the master.
    /// Later writes may be lost with the master.
    pub fn await_copied(&self, master: SocketAddr) {
        self.node(master).await_copied_to(self.partner(master));
    }

    /// Returns the other node of the same shard, which has two.
    fn partner(&self, of: SocketAddr) -> &Redis {
        let number = self.nodes.iter().position(|node| node.address() == of);
        let number = number.unwrap_or_else(|| panic!("no node at {of}"));
        &self.nodes[(number + MASTERS) % self.nodes.len()]
    }

    /// Waits until another node serves the slots of `gone`, which is dead or
    /// paused, and returns that node.
    pub fn await_failover(&self, gone: SocketAddr) -> SocketAddr {
        let heir = self.partner(gone).address();
        let taken = poll(SETTLE, || self.masters().contains(&heir).then_some(()));
        assert!(taken.is_some(), "{heir} did not take over from {gone}");
        self.await_ok();
        heir
    }

    /// Waits until every responsive node reports that the cluster serves, with
    /// the same owner for each slot.
    pub fn await_ok(&self) {
        let settled = poll(SETTLE, || {
            let mut seen = None;
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let info = node.command(&["CLUSTER", "INFO"]).ok()?;
                let mut map = serving(node)?;
                map.sort();
                let agrees = *seen.get_or_insert_with(|| map.clone()) == map;
                (info.contains("cluster_state:ok") && agrees).then_some(())?;
            }
            seen
        });
        if settled.is_none() {
            let logs = self.nodes.iter().map(Redis::log).collect::<Vec<_>>();
            panic!("the cluster never served:\n{}", logs.join("\n"));
        }
    }

    /// Returns the view of the best informed node: a newly elected master has
    /// the highest epoch, and paused nodes have stale views.
    fn view(&self) -> Vec<Node> {
        let running = self.nodes.iter().filter(|node| node.is_running());
        let asked = running.filter_map(|node| {
            let info = node.command(&["CLUSTER", "INFO"]).ok()?;
            let epoch = info
                .lines()
                .find_map(|line| line.strip_prefix("cluster_current_epoch:"))?;
            Some((epoch.trim().parse::<u64>().ok()?, node))
        });
        let (_, best) = asked
            .max_by_key(|(epoch, _)| *epoch)
            .expect("a node that answers");
        view_of(best).expect("CLUSTER NODES of a node that answers")
    }
}

/// A slot in migration from one master to another.
pub struct SlotMove<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: &'a Redis,
    to: &'a Redis,
    from_id: String,
    to_id: String,
}

impl SlotMove<'_> {
    /// Migrates up to `count` keys, and returns how many there were.
    pub fn step(&self, keys: usize) -> usize {
        let slot = ["CLUSTER", "GETKEYSINSLOT", &self.slot, &keys.to_string()];
        let keys = order(self.from, &slot);
        let keys: Vec<&str> = keys.lines().collect();
        self.take(&keys);
        keys.len()
    }

    /// Migrates these keys, if they exist.
    pub fn take(&self, keys: &[&str]) {
        if keys.is_empty() {
            return;
        }
        let port = self.to.address().port().to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        words.extend(keys);
        order(self.from, &words);
    }

    /// Assigns the slot to the new master on every node, after the remaining
    /// keys have been migrated.
    pub fn finish(self) {
        loop {
            while self.step(STEP) > 0 {}
            // The new owner first, as the protocol requires while clients
            // write.
            self.set(self.to, &["NODE", &self.to_id]);
            // Rejected if a key was added meanwhile.
            let words = ["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.to_id];
            if self.from.command(&words).is_ok() {
                break;
            }
        }
        // Replicas learn the new owner from their masters.
        for &master in &self.cluster.masters() {
            self.set(self.cluster.node(master), &["NODE", &self.to_id]);
        }
        self.cluster.await_ok();
    }

    fn set(&self, node: &Redis, words: &[&str]) {
        order(
            node,
            &[&["CLUSTER", "SETSLOT", &self.slot][..], words].concat(),
        );
    }
}

#[track_caller]
fn order(node: &Redis, words: &[&str]) -> String {
    node.command(words)
        .unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn view_of(node: &Redis) -> Option<Vec<Node>> {
    let text = node.command(&["CLUSTER", "NODES"]).ok()?;
    text.lines().map(parse).collect()
}

/// Returns the owners of the slots as `node` sees them.
fn serving(node: &Redis) -> Option<Vec<(SocketAddr, u64, Slots)>> {
    let all = view_of(node)?;
    // A replica of a dead master is about to become a master: not stable.
    let orphaned = all.iter().any(|node| {
        node.flags.contains("slave") && !all.iter().any(|master| master.id == node.master)
    });
    let serving = all.into_iter().filter(Node::serves);
    (!orphaned).then(|| {
        serving
            .map(|node| (node.address, node.epoch, node.slots))
            .collect()
    })
}

fn parse(line: &str) -> Option<Node> {
    let mut fields = line.split(' ');
    let id = fields.next()?.to_owned();
    let address = fields.next()?.split('@').next()?.parse().ok()?;
    let flags = fields.next()?.to_owned();
    let master = fields.next()?.to_owned();
    let epoch = fields.nth(2)?.parse().ok()?;
    let slots = fields
        .skip(1)
        // In brackets: in migration.
        .filter(|range| !range.starts_with('['))
        .map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            Some((from.parse().ok()?, to.parse().ok()?))
        })
        .collect::<Option<_>>()?;
    Some(Node {
        id,
        address,
        flags,
        master,
        epoch,
        slots,
    })
}
