//! A Redis Cluster: a connection to each master that is needed, and a map of the slots.
//!
//! Not the redis crate's own cluster client: it tries again by itself, up to sixteen times,
//! so that nobody knows whether a script ran twice; and it listens on the connection that it
//! asks on, where a slot that moves away makes it give answers to the wrong questions (see
//! `cluster/node.rs`).
//!
//! What is pushed goes to a channel for each slot, `lockstock:wake:{TAG}:PROCESS`: a script
//! can only tell how many hear it on its own server, and only such a channel is always there.

mod node;
mod redirect;
mod slot;
mod topology;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::{Cmd, ConnectionInfo, FromRedisValue};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info};

use self::node::Node;
use self::redirect::{Redirect, Redirector, redirection};
use self::slot::SLOTS;
use self::topology::{SlotMap, TopologyView, best};
use super::managed::{CallError, ManagedConnection, Server};
use super::url::place;
use super::{CHANNELS, Eval, NO_SCRIPT, ScriptReply, SlotContext};
use crate::error::{Error, Result};
use crate::store::redis::notifications::Notifications;
use crate::token::ClientId;

/// How many nodes are asked who serves what.
const ASKED: usize = 3;
/// How soon they are asked again, when nothing is wrong but that something has moved.
const AGAIN: Duration = Duration::from_millis(500);
/// How often they are asked while somebody waits: nobody tells a process that only
/// listens when the server it listens to has been replaced.
const LOOK_ROUND: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(super) struct Cluster(Arc<Inner>);

struct Inner {
    /// For messages.
    place: String,
    /// How to speak to any node.
    servers: ConnectionInfo,
    /// Those that the URL names.
    seeds: Vec<Arc<Node>>,
    process: ClientId,
    wakes: Notifications,
    limit: Duration,
    /// std's mutexes: held for a look or a change, never across an await.
    map: Mutex<SlotMap>,
    ears: Mutex<HashMap<u16, SlotChannel>>,
    /// When somebody last asked who serves what. One at a time.
    looked: AsyncMutex<Option<Instant>>,
}

/// What is heard of a slot.
#[derive(Clone)]
struct SlotChannel {
    slot: Arc<SlotContext>,
    channel: Arc<str>,
}

impl Cluster {
    pub(super) async fn connect(
        place_of_all: String,
        seeds: Vec<ConnectionInfo>,
        process: ClientId,
        wakes: Notifications,
        limit: Duration,
    ) -> Result<Self> {
        let Some(servers) = seeds.first().cloned() else {
            return Err(Error::invalid("a Cluster's URL names a node"));
        };
        let named = seeds.iter().filter_map(|info| Some((info, place(info)?)));
        let seeds = named
            .map(|(info, (host, port))| Node::new(info, &host, port, wakes.clone(), limit))
            .collect::<Result<_>>()?;
        let cluster = Self(Arc::new(Inner {
            place: place_of_all,
            servers,
            seeds,
            process,
            wakes,
            limit,
            map: Mutex::new(SlotMap::new()),
            ears: Mutex::default(),
            looked: AsyncMutex::new(None),
        }));
        cluster.look().await.map_err(|why| {
            Error::unavailable(format!(
                "no Redis Cluster answers at {}: {why}",
                cluster.0.place
            ))
        })?;
        tokio::spawn(look_round(Arc::downgrade(&cluster.0)));
        Ok(cluster)
    }

    /// Runs a script, or a plain command, where its first key is.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        command: impl Fn(Eval) -> Cmd,
        until: Instant,
    ) -> Result<ScriptReply<T>> {
        let mut routed = Redirector::new(self);
        let asked = async {
            let answer = match routed.send(&command(Eval::Sha)).await {
                Err(error) if error.kind() == NO_SCRIPT => {
                    routed.send(&command(Eval::Source)).await
                }
                answer => answer,
            };
            answer.and_then(|answer| Ok(redis::from_redis_value(answer)?))
        };
        match timeout_at(until, asked).await {
            Ok(Ok(answer)) => Ok(ScriptReply {
                answer,
                begun: routed.begun,
                repeated: routed.repeated,
            }),
            Ok(Err(error)) => Err(routed.failed.unwrap_or_else(|| error.into())),
            Err(_) => Err(match routed.not_yet.take() {
                Some(said) => said.into(),
                None => {
                    routed.doubt();
                    Error::no_answer(self.0.limit)
                }
            }),
        }
    }

    /// The ways to those that serve slots.
    pub(super) fn links(&self) -> impl Iterator<Item = ManagedConnection<Server>> {
        let nodes = self.0.map().nodes.clone();
        nodes.into_iter().map(|node| node.link.clone())
    }

    pub(super) fn slot(&self, key: &[u8]) -> Arc<SlotContext> {
        self.ear_of(slot::slot(key)).slot
    }

    /// Makes sure that what is pushed about `key` is heard.
    pub(super) async fn hear(&self, key: &[u8]) -> Result<()> {
        let slot = slot::slot(key);
        let ear = self.ear_of(slot);
        timeout(self.0.limit, self.listen(slot, &ear))
            .await
            .unwrap_or_else(|_| {
                self.look_soon();
                Err(Error::no_answer(self.0.limit))
            })
    }

    async fn listen(&self, slot: u16, ear: &SlotChannel) -> Result<()> {
        let mut tries = 0;
        loop {
            let node = self.owner(slot).await?;
            let trouble = match node.listen(&ear.channel).await {
                // It may have been replaced while we waited for its answer.
                Ok(()) if self.is_owner(slot, &node) => return Ok(()),
                Ok(()) => continue,
                Err(trouble) => trouble,
            };
            tries += 1;
            if tries > 3 {
                return Err(node.link.error(trouble));
            }
            match trouble {
                CallError::Refused(error) => match redirection(&error) {
                    Some(Redirect {
                        slot: moved,
                        host,
                        port,
                        ..
                    }) if moved == slot => {
                        self.set_owner(slot, host.unwrap_or(&node.host), port)?;
                    }
                    _ => return Err(error.into()),
                },
                _ => self.look_at(slot, &node).await,
            }
        }
    }

    fn ear_of(&self, slot: u16) -> SlotChannel {
        let ears = || self.0.ears.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ear) = ears().get(&slot) {
            return ear.clone();
        }
        // Takes a moment: not while others wait for theirs.
        let tag = slot::tag(slot);
        let (channels, process) = (format!("{CHANNELS}{{{tag}}}:"), self.0.process);
        let ear = SlotChannel {
            channel: format!("{channels}{process}").into(),
            slot: Arc::new(SlotContext {
                clock: format!("lockstock:{{{tag}}}:clock"),
                channels,
                process: process.to_string(),
            }),
        };
        // One for all, whoever else has come meanwhile: what goes together is told by it.
        ears().entry(slot).or_insert(ear).clone()
    }

    /// Who serves `slot`, as far as we know.
    async fn owner(&self, slot: u16) -> Result<Arc<Node>> {
        if let Some(node) = self.0.map().owner(slot) {
            return Ok(node);
        }
        let looked = self.look().await;
        self.0.map().owner(slot).ok_or_else(|| {
            let why = looked.err().unwrap_or_default();
            let place = &self.0.place;
            Error::unavailable(format!(
                "CLUSTERDOWN nobody serves slot {slot} of the Cluster at {place} {why}"
            ))
        })
    }

    fn is_owner(&self, slot: u16, node: &Arc<Node>) -> bool {
        let owner = self.0.map().owner(slot);
        owner.is_some_and(|owner| Arc::ptr_eq(&owner, node))
    }

    /// What a node has said about one slot.
    fn set_owner(&self, slot: u16, host: &str, port: u16) -> Result<Arc<Node>> {
        let node = self.node(host, port)?;
        let news = self.0.map().set(slot, &node);
        if news {
            self.0.wakes.broken();
            // The others are likely to have moved too.
            self.look_soon();
        }
        Ok(node)
    }

    /// A node of that address: the one we know, or a new one. Kept until the next map is
    /// drawn, even if it serves nothing yet.
    fn node(&self, host: &str, port: u16) -> Result<Arc<Node>> {
        let (inner, mut map) = (&self.0, self.0.map());
        let known = map.nodes.iter().find(|node| node.is_at(host, port));
        if let Some(node) = known {
            return Ok(node.clone());
        }
        let node = Node::new(&inner.servers, host, port, inner.wakes.clone(), inner.limit)?;
        map.nodes.push(node.clone());
        Ok(node)
    }

    /// After `node` failed to serve `slot`: asks others who does now.
    async fn look_at(&self, slot: u16, node: &Arc<Node>) {
        if self.is_owner(slot, node)
            && let Err(why) = self.look().await
        {
            debug!(why, "nobody tells who serves what");
        }
    }

    /// Asks in the background, unless that was done a moment ago: until the nodes have told
    /// each other, a second question has the same answer.
    fn look_soon(&self) {
        let cluster = self.clone();
        tokio::spawn(async move {
            let wanted = Instant::now() - AGAIN;
            if let Err(why) = cluster.look_since(wanted).await {
                debug!(why, "nobody tells who serves what");
            }
        });
    }

    /// Asks who serves what, unless somebody else does just now.
    async fn look(&self) -> Result<(), String> {
        self.look_since(Instant::now()).await
    }

    async fn look_since(&self, wanted: Instant) -> Result<(), String> {
        let mut looked = self.0.looked.lock().await;
        if looked.is_some_and(|begun| begun >= wanted) {
            return Ok(());
        }
        // In vain as well: when nobody answers, each who waits here would ask in turn.
        *looked = Some(Instant::now());
        let view = self.ask().await?;
        self.draw(&view).map_err(|error| error.to_string())
    }

    async fn ask(&self) -> Result<TopologyView, String> {
        let mut known = self.0.map().nodes.clone();
        // Another few each time: among them may be one that stands still.
        let turn = usize::from(rand::random::<u16>()) % known.len().max(1);
        known.rotate_left(turn);
        known.truncate(ASKED);
        let mut why = String::new();
        for nodes in [known, self.0.seeds.clone()] {
            match best(nodes, self.0.limit).await {
                Ok(view) => return Ok(view),
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    /// Makes the map that `view` describes.
    fn draw(&self, view: &TopologyView) -> Result<()> {
        let mut next = SlotMap::new();
        for range in &view.ranges {
            let node = match next
                .nodes
                .iter()
                .find(|node| node.is_at(&range.host, range.port))
            {
                Some(node) => node.clone(),
                None => self.node(&range.host, range.port)?,
            };
            for slot in range.from..=range.to.min(SLOTS - 1) {
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
            info!(
                place = self.0.place,
                "slots are served by other nodes than before"
            );
            // Their waiters listen where nothing is said any more.
            self.0.wakes.broken();
        }
        Ok(())
    }
}

/// While somebody waits: looks whether they still listen in the right place, and hear.
async fn look_round(cluster: Weak<Inner>) {
    loop {
        sleep(LOOK_ROUND).await;
        let Some(cluster) = cluster.upgrade().map(Cluster) else {
            return;
        };
        let nodes = cluster.0.map().nodes.clone();
        if nodes.iter().any(|node| node.is_heard()) {
            let mut checks = JoinSet::new();
            for node in nodes {
                checks.spawn(async move { node.check().await });
            }
            checks.join_all().await;
            cluster.look_soon();
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
