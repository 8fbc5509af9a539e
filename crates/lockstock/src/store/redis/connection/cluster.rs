//! A Redis Cluster: a connection to each master in use, and a map of the slots.
//!
//! Not the redis crate's cluster client: it subscribes on the connections that it sends commands
//! on, where a slot that moves away shifts all later replies (see `cluster/node.rs`), and it
//! does not report whether a command was sent twice.
//!
//! Notifications are published on a channel for each slot, `lockstock:wake:{TAG}:CLIENT`: a
//! script can only count the subscribers on its own server, and only a channel of its slot is
//! always served there.

mod node;
mod redirect;
mod slot;
mod topology;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, ConnectionInfo, FromRedisValue};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info};

use self::node::Node;
use self::redirect::{Redirect, Redirector, redirection};
use self::slot::SLOTS;
use self::topology::{SlotMap, TopologyView, query};
use super::direct::{Pool, Target};
use super::managed::{CallError, ManagedConnection, Server};
use super::tls::ClientTls;
use super::tracked::{Probe, TrackedRead};
use super::url::address;
use super::{Attempt, CHANNELS, Eval, NO_SCRIPT, ScriptReply, SlotContext};
use crate::command::first_key;
use crate::error::{Error, Result};
use crate::store::near::NearTables;
use crate::store::redis::notifications::Notifications;
use crate::token::ClientId;

/// How many nodes are queried for the topology.
const QUERIED_NODES: usize = 3;
/// The minimum time between two queries, unless a node has failed.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How often the topology is queried while there are waiters: a client that only listens is not
/// notified if the node that it is subscribed on is replaced.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// How many failed attempts to subscribe to a slot's channel are repeated.
const MAX_SUBSCRIBE_RETRIES: usize = 3;

#[derive(Clone)]
pub(super) struct Cluster(Arc<Inner>);

struct Inner {
    /// For messages.
    address: String,
    /// The settings of every node.
    servers: Target,
    /// The nodes of the URL.
    seeds: Vec<Arc<Node>>,
    client_id: ClientId,
    notifications: Notifications,
    near: Arc<NearTables>,
    timeout: Duration,
    /// std's mutexes: held for a lookup or a change, never across an await.
    map: Mutex<SlotMap>,
    channels: Mutex<HashMap<u16, SlotChannel>>,
    /// When the last query of the topology began. Held during a query.
    refreshed_at: AsyncMutex<Option<Instant>>,
}

/// The channel of a slot.
#[derive(Clone)]
struct SlotChannel {
    slot: Arc<SlotContext>,
    name: Arc<str>,
}

impl Cluster {
    /// Opens no connection yet.
    pub(super) fn open(
        cluster_address: String,
        seeds: Vec<ConnectionInfo>,
        tls: Arc<ClientTls>,
        client_id: ClientId,
        notifications: Notifications,
        near: Arc<NearTables>,
        timeout: Duration,
    ) -> Result<Self> {
        let Some(info) = seeds.first().cloned() else {
            return Err(Error::invalid("the URL of a Cluster has to name a node"));
        };
        let servers = Target { info, tls };
        let seeds = seeds
            .iter()
            .filter_map(address)
            .map(|(host, port)| {
                let (notifications, near) = (notifications.clone(), near.clone());
                Node::new(&servers, &host, port, notifications, near, timeout)
            })
            .collect();
        let cluster = Self(Arc::new(Inner {
            address: cluster_address,
            servers,
            seeds,
            client_id,
            notifications,
            near,
            timeout,
            map: Mutex::new(SlotMap::new()),
            channels: Mutex::default(),
            refreshed_at: AsyncMutex::new(None),
        }));
        tokio::spawn(refresh_periodically(Arc::downgrade(&cluster.0)));
        Ok(cluster)
    }

    /// Finds the nodes of the Cluster, unless they are known.
    pub(super) async fn connect(&self) -> Result<()> {
        let is_known = || !self.0.map().nodes.is_empty();
        if is_known() {
            return Ok(());
        }
        // Not an error if another caller's refresh failed while this one waited for it.
        let refreshed = self.refresh().await;
        if is_known() {
            return Ok(());
        }
        let reason = refreshed.err();
        let reason = reason.as_deref().unwrap_or("no node reports a slot");
        Err(Error::unavailable(format!(
            "cannot connect to the Redis Cluster at {}: {reason}",
            self.0.address
        )))
    }

    /// Runs a script, or a plain command, on the node that serves its first key.
    pub(super) async fn attempt<'a, T: FromRedisValue>(
        &self,
        settings: Attempt,
        command: impl Fn(Eval) -> Cow<'a, Cmd>,
    ) -> Result<ScriptReply<T>> {
        let mut redirector = Redirector::new(self, settings);
        let call = async {
            let reply = match redirector.send(&command(settings.eval)).await {
                Err(error) if error.kind() == NO_SCRIPT => {
                    redirector.send(&command(Eval::Source)).await
                }
                reply => reply,
            };
            reply.and_then(|reply| Ok(redis::from_redis_value(reply)?))
        };
        match timeout_at(settings.deadline, call).await {
            Ok(Ok(value)) => Ok(ScriptReply {
                value,
                sent_at: redirector.sent_at,
                repeated: redirector.repeated,
            }),
            Ok(Err(error)) => Err(redirector.failure.unwrap_or_else(|| Error::redis(error))),
            Err(_) => Err(match redirector.try_again.take() {
                Some(error) => Error::redis(error),
                None => {
                    redirector.timed_out();
                    Error::timed_out(self.0.timeout)
                }
            }),
        }
    }

    /// Returns the slot of a key.
    pub(super) fn slot_of(key: &[u8]) -> u16 {
        slot::slot(key)
    }

    /// Returns a connection to each node that serves slots.
    pub(super) async fn servers(&self) -> Result<impl Iterator<Item = ManagedConnection<Server>>> {
        self.connect().await?;
        let nodes = self.0.map().nodes.clone();
        Ok(nodes.into_iter().map(|node| node.commands.clone()))
    }

    /// Returns a connection to the node that serves the slot of `key`.
    pub(super) async fn node_of(&self, key: &[u8]) -> Result<ManagedConnection<Server>> {
        let owner = timeout(self.0.timeout, self.owner(slot::slot(key))).await;
        let owner = owner.map_err(|_| Error::timed_out(self.0.timeout))??;
        Ok(owner.commands.clone())
    }

    /// Reads a value on the tracked connection to the node that serves it.
    pub(super) async fn read_tracked(&self, key: &[u8], deadline: Instant) -> Result<TrackedRead> {
        let owner = timeout_at(deadline, self.owner(slot::slot(key))).await;
        match owner {
            Ok(Ok(node)) => node.tracked.read(key, deadline).await,
            // The other connections wait for an owner, or report why there is none.
            Ok(Err(_)) | Err(_) => Ok(TrackedRead::Nothing),
        }
    }

    /// Probes the tracked connection of each node: a node that was demoted, or that the
    /// other nodes cannot reach, still replies to `PING`.
    pub(super) async fn probe_tracked(&self, limit: Duration) {
        let nodes: Vec<_> = {
            let map = self.0.map();
            let probed = map.nodes.iter();
            probed
                .map(|node| (node.clone(), map.first_slot(node)))
                .collect()
        };
        join_all(nodes.iter().map(async |(node, slot)| {
            let probe = slot.map(|slot| {
                let clock = &self.channel(slot).slot.clock;
                Probe::Serves(format!("{clock}:probe"))
            });
            node.tracked.probe(probe.as_ref(), limit).await;
        }))
        .await;
    }

    /// Records that the node for a command has not replied since `sent_at` on a blocking connection.
    pub(super) fn suspect(&self, command: &Cmd, sent_at: Instant) {
        let slot = first_key(command).map(slot::slot);
        let owner = slot.and_then(|slot| self.0.map().owner(slot));
        if let Some(node) = owner {
            node.commands.suspect(sent_at);
        }
        self.refresh_soon();
    }

    pub(super) fn close_tracked(&self) {
        let nodes = self.0.map().nodes.clone();
        for node in nodes {
            node.tracked.managed().close_current();
        }
    }

    /// Returns the blocking connections to the node for a command with a key, by the current map.
    pub(super) fn direct(&self, command: &Cmd) -> Option<Arc<Pool>> {
        let slot = slot::slot(first_key(command)?);
        let owner = self.0.map().owner(slot)?;
        Some(owner.direct.clone())
    }

    pub(super) fn slot(&self, key: &[u8]) -> Arc<SlotContext> {
        self.channel(slot::slot(key)).slot
    }

    /// Ensures that notifications about `key` are received.
    pub(super) async fn ensure_subscribed(&self, key: &[u8]) -> Result<()> {
        let slot = slot::slot(key);
        let channel = self.channel(slot);
        let begun = Instant::now();
        timeout(self.0.timeout, self.subscribe(slot, &channel.name))
            .await
            .unwrap_or_else(|_| {
                if let Some(node) = self.0.map().owner(slot) {
                    node.subscribe_timed_out(begun);
                }
                self.refresh_soon();
                Err(Error::timed_out(self.0.timeout))
            })
    }

    async fn subscribe(&self, slot: u16, channel: &str) -> Result<()> {
        let mut failures = 0;
        loop {
            let node = self.owner(slot).await?;
            let error = match node.ensure_subscribed(channel).await {
                // The slot may have moved while the subscription was pending.
                Ok(()) if self.is_owner(slot, &node) => return Ok(()),
                Ok(()) => continue,
                Err(error) => error,
            };
            failures += 1;
            if failures > MAX_SUBSCRIBE_RETRIES {
                return Err(node.commands.error(error));
            }
            match error {
                CallError::Refused(_) => return Err(node.commands.error(error)),
                CallError::Rejected(error) => match redirection(&error) {
                    Some(Redirect {
                        slot: moved,
                        host,
                        port,
                        ..
                    }) if moved == slot => {
                        self.set_owner(slot, host.unwrap_or(&node.host), port);
                    }
                    _ => return Err(Error::redis(error)),
                },
                _ => self.refresh_if_owner(slot, &node).await,
            }
        }
    }

    fn channel(&self, slot: u16) -> SlotChannel {
        let channels = || {
            self.0
                .channels
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(channel) = channels().get(&slot) {
            return channel.clone();
        }
        // Finding a tag takes a moment, so the mutex is not held.
        let tag = slot::tag(slot);
        let (prefix, client_id) = (format!("{CHANNELS}{{{tag}}}:"), self.0.client_id);
        let channel = SlotChannel {
            name: format!("{prefix}{client_id}").into(),
            slot: Arc::new(SlotContext {
                clock: format!("lockstock:{{{tag}}}:clock"),
                channels: prefix,
                client_id: client_id.to_string(),
            }),
        };
        // The first entry wins: operations share a call if their contexts are the same `Arc`.
        channels().entry(slot).or_insert(channel).clone()
    }

    /// Returns the node that serves `slot`, by the current map.
    async fn owner(&self, slot: u16) -> Result<Arc<Node>> {
        self.connect().await?;
        if let Some(node) = self.0.map().owner(slot) {
            return Ok(node);
        }
        let refreshed = self.refresh().await;
        self.0.map().owner(slot).ok_or_else(|| {
            let reason = match refreshed {
                Ok(()) => String::new(),
                Err(reason) => format!(": {reason}"),
            };
            let address = &self.0.address;
            Error::unavailable(format!(
                "CLUSTERDOWN no node of the Cluster at {address} serves slot {slot}{reason}"
            ))
        })
    }

    fn is_owner(&self, slot: u16, node: &Arc<Node>) -> bool {
        let owner = self.0.map().owner(slot);
        owner.is_some_and(|owner| Arc::ptr_eq(&owner, node))
    }

    /// Applies a redirection of one slot.
    fn set_owner(&self, slot: u16, host: &str, port: u16) -> Arc<Node> {
        let node = self.node(host, port);
        let changed = self.0.map().set(slot, &node);
        if changed {
            self.0.notifications.disconnected();
            self.0.near.clear();
            // Other slots have probably moved too.
            self.refresh_soon();
        }
        node
    }

    /// Returns the node at this address, a new one if it is unknown. A new node stays in the map
    /// until the next refresh, even if it serves no slot.
    fn node(&self, host: &str, port: u16) -> Arc<Node> {
        let (inner, mut map) = (&self.0, self.0.map());
        let known = map.nodes.iter().find(|node| node.is_at(host, port));
        if let Some(node) = known {
            return node.clone();
        }
        let (notifications, near) = (inner.notifications.clone(), inner.near.clone());
        let node = Node::new(
            &inner.servers,
            host,
            port,
            notifications,
            near,
            inner.timeout,
        );
        map.nodes.push(node.clone());
        node
    }

    /// Refreshes the map after `node` has failed, if it is still the owner of `slot`.
    async fn refresh_if_owner(&self, slot: u16, node: &Arc<Node>) {
        if self.is_owner(slot, node)
            && let Err(reason) = self.refresh().await
        {
            debug!(reason, "cannot refresh the slot map");
        }
    }

    /// Refreshes the map in the background, at most once per [`RETRY_DELAY`]: until the nodes
    /// have exchanged a change, another query returns the same.
    pub(super) fn refresh_soon(&self) {
        let not_before = Instant::now() - RETRY_DELAY;
        // Without a task for each call that fails at once.
        let is_refreshed = match self.0.refreshed_at.try_lock() {
            Ok(refreshed_at) => refreshed_at.is_some_and(|begun| begun >= not_before),
            Err(_) => true,
        };
        if is_refreshed {
            return;
        }
        let cluster = self.clone();
        tokio::spawn(async move {
            if let Err(reason) = cluster.refresh_unless_since(not_before).await {
                debug!(reason, "cannot refresh the slot map");
            }
        });
    }

    /// Refreshes the map, or waits for a refresh that begins after this call.
    async fn refresh(&self) -> Result<(), String> {
        self.refresh_unless_since(Instant::now()).await
    }

    /// Refreshes the map, unless a refresh has begun since `since`.
    async fn refresh_unless_since(&self, since: Instant) -> Result<(), String> {
        let mut refreshed_at = self.0.refreshed_at.lock().await;
        if refreshed_at.is_some_and(|begun| begun >= since) {
            return Ok(());
        }
        // Recorded even if the query fails: otherwise all callers that wait here would repeat
        // it one after another.
        *refreshed_at = Some(Instant::now());
        let view = self.query().await?;
        self.apply(&view);
        Ok(())
    }

    async fn query(&self) -> Result<TopologyView, String> {
        let mut known = self.0.map().nodes.clone();
        // Different nodes each time: some of them may hang.
        let first = usize::from(rand::random::<u16>()) % known.len().max(1);
        known.rotate_left(first);
        known.truncate(QUERIED_NODES);
        let mut error = String::new();
        for nodes in [known, self.0.seeds.clone()] {
            match query(nodes, self.0.timeout).await {
                Ok(view) => return Ok(view),
                Err(reason) => error = reason,
            }
        }
        Err(error)
    }

    /// Replaces the map by that of `view`.
    fn apply(&self, view: &TopologyView) {
        let mut next = SlotMap::new();
        for range in &view.ranges {
            let node = match next
                .nodes
                .iter()
                .find(|node| node.is_at(&range.host, range.port))
            {
                Some(node) => node.clone(),
                None => self.node(&range.host, range.port),
            };
            for slot in range.first..=range.last.min(SLOTS - 1) {
                next.set(slot, &node);
            }
        }
        let mut map = self.0.map();
        let moved = (0..SLOTS).any(|slot| {
            let (old, new) = (map.owner(slot), next.owner(slot));
            old.is_some_and(|old| !new.is_some_and(|new| Arc::ptr_eq(&old, &new)))
        });
        *map = next;
        drop(map);
        if moved {
            info!(address = self.0.address, "slots have moved to other nodes");
            // Some subscriptions are on the wrong nodes now, and some copies were read there.
            self.0.notifications.disconnected();
            self.0.near.clear();
        }
    }
}

/// While there are waiters, periodically checks that their subscriptions are on the right nodes
/// and alive. Ends with the cluster.
async fn refresh_periodically(cluster: Weak<Inner>) {
    loop {
        sleep(REFRESH_INTERVAL).await;
        let Some(cluster) = cluster.upgrade().map(Cluster) else {
            return;
        };
        let nodes = cluster.0.map().nodes.clone();
        if nodes.iter().any(|node| node.has_subscriptions()) {
            let mut checks = JoinSet::new();
            for node in nodes {
                checks.spawn(async move { node.check_subscriptions().await });
            }
            checks.join_all().await;
            cluster.refresh_soon();
        }
    }
}

impl Inner {
    fn map(&self) -> MutexGuard<'_, SlotMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
