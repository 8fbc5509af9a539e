//! The map of slots to nodes, and the query for it.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::managed::{Admission, CallError};
use super::node::Node;
use super::slot::SLOTS;
use crate::error::{Error, Result};

/// How long to wait for further replies after the first. The first may be that of a node that was
/// partitioned from the others, and outdated.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(100);

/// The node of each slot.
pub(super) struct SlotMap {
    pub(super) nodes: Vec<Arc<Node>>,
    /// For each slot an index into `nodes`.
    owners: Vec<Option<u16>>,
}

impl SlotMap {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            owners: vec![None; SLOTS.into()],
        }
    }

    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        let index = self.owners[usize::from(slot)]?;
        Some(self.nodes[usize::from(index)].clone())
    }

    /// Returns a slot that `node` serves, if there is one.
    pub(super) fn first_slot(&self, node: &Arc<Node>) -> Option<u16> {
        let index = self
            .nodes
            .iter()
            .position(|other| Arc::ptr_eq(other, node))?;
        let is_served = |owner: &Option<u16>| *owner == Some(index as u16);
        let slot = self.owners.iter().position(is_served)?;
        u16::try_from(slot).ok()
    }

    /// Sets the owner of a slot. Returns whether it has changed.
    pub(super) fn set(&mut self, slot: u16, node: &Arc<Node>) -> bool {
        let known = self.nodes.iter().position(|other| Arc::ptr_eq(other, node));
        let index = known.unwrap_or_else(|| {
            self.nodes.push(node.clone());
            self.nodes.len() - 1
        });
        let owner = &mut self.owners[usize::from(slot)];
        owner.replace(index as u16) != Some(index as u16)
    }
}

/// The topology as a node knows it.
pub(super) struct TopologyView {
    /// Whether the node considers the Cluster up.
    is_up: bool,
    /// Increases with each failover.
    epoch: u64,
    pub(super) ranges: Vec<Range>,
}

pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Queries these nodes at once, and returns the most recent view.
pub(super) async fn query(
    nodes: Vec<Arc<Node>>,
    call_timeout: Duration,
) -> Result<TopologyView, String> {
    let mut queries = JoinSet::new();
    for node in nodes {
        queries.spawn(async move {
            let view = timeout(call_timeout, query_node(&node)).await;
            view.unwrap_or_else(|_| Err(node.commands.error(CallError::TimedOut)))
        });
    }
    let (mut best, mut reason) = (None::<TopologyView>, "no node is known".to_owned());
    loop {
        let next = match best {
            Some(_) => timeout(STRAGGLER_TIMEOUT, queries.join_next())
                .await
                .ok()
                .flatten(),
            None => queries.join_next().await,
        };
        match next {
            Some(Ok(Ok(view))) => {
                let rank = |view: &TopologyView| (view.is_up, view.epoch);
                if best.as_ref().is_none_or(|best| rank(best) < rank(&view)) {
                    best = Some(view);
                }
            }
            Some(Ok(Err(error))) => reason = error.to_string(),
            Some(Err(_)) => {}
            None => break,
        }
    }
    best.ok_or(reason)
}

async fn query_node(node: &Node) -> Result<TopologyView> {
    let send = async |subcommand| {
        let command = redis::cmd("CLUSTER").arg(subcommand).to_owned();
        let reply = node.send(&command, Admission::UnlessSilent).await;
        reply.map_err(|error| node.commands.error(error))
    };
    let info: String =
        redis::from_redis_value(send("INFO").await?).map_err(|error| Error::redis(error.into()))?;
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    let ranges = ranges(send("SLOTS").await?)?;
    Ok(TopologyView {
        is_up: info.contains("cluster_state:ok"),
        epoch: number("cluster_current_epoch:").unwrap_or_default(),
        ranges: ranges
            .iter()
            .filter_map(|range| parse(range, node))
            .collect(),
    })
}

/// Returns the ranges in the reply to `CLUSTER SLOTS`. Each has a slot at least.
fn ranges(reply: Value) -> Result<Vec<Value>> {
    match reply {
        Value::Array(ranges) if ranges.len() <= usize::from(SLOTS) => Ok(ranges),
        _ => Err(Error::unavailable(
            "the reply to CLUSTER SLOTS is malformed",
        )),
    }
}

/// Parses `first, last, [host, port, …], replicas …`.
fn parse(range: &Value, node: &Node) -> Option<Range> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [
        Value::Int(first),
        Value::Int(last),
        Value::Array(master),
        ..,
    ] = &parts[..]
    else {
        return None;
    };
    let [host, Value::Int(port), ..] = &master[..] else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        _ => "",
    };
    Some(Range {
        first: u16::try_from(*first).ok()?,
        last: u16::try_from(*last).ok()?,
        // A node may not know its own address. It was reached at this one.
        host: if matches!(host, "" | "?") {
            &node.host
        } else {
            host
        }
        .to_owned(),
        port: u16::try_from(*port).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_ranges_than_slots_are_an_error() {
        let reply = |count| Value::Array(vec![Value::Nil; count]);
        assert!(ranges(reply(16_384)).is_ok());
        assert!(ranges(reply(16_385)).is_err());
    }
}
