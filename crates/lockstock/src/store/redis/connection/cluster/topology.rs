//! Who serves which slot, and what the nodes say about it.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::managed::CallError;
use super::node::Node;
use super::slot::SLOTS;
use crate::error::{Error, Result};

/// How long the other nodes may take when one has answered. One that was cut off from the
/// others knows what was true yesterday.
const OTHERS: Duration = Duration::from_millis(100);

/// Who serves what.
pub(super) struct SlotMap {
    pub(super) nodes: Vec<Arc<Node>>,
    /// For each slot a place in `nodes`.
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
        let place = self.owners[usize::from(slot)]?;
        Some(self.nodes[usize::from(place)].clone())
    }

    /// Whether that is new.
    pub(super) fn set(&mut self, slot: u16, node: &Arc<Node>) -> bool {
        let known = self.nodes.iter().position(|other| Arc::ptr_eq(other, node));
        let place = known.unwrap_or_else(|| {
            self.nodes.push(node.clone());
            self.nodes.len() - 1
        });
        let owner = &mut self.owners[usize::from(slot)];
        owner.replace(place as u16) != Some(place as u16)
    }
}

/// What a node says about the cluster.
pub(super) struct TopologyView {
    serves: bool,
    /// Each failover has a higher one.
    epoch: u64,
    pub(super) ranges: Vec<Range>,
}

pub(super) struct Range {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) host: String,
    pub(super) port: u16,
}

/// The best informed answer of these nodes.
pub(super) async fn best(nodes: Vec<Arc<Node>>, limit: Duration) -> Result<TopologyView, String> {
    let mut asked = JoinSet::new();
    for node in nodes {
        asked.spawn(async move {
            let answer = timeout(limit, view(&node)).await;
            answer.unwrap_or_else(|_| Err(node.link.error(CallError::TimedOut)))
        });
    }
    let (mut best, mut why) = (None::<TopologyView>, "it names no node".to_owned());
    loop {
        let next = match best {
            Some(_) => timeout(OTHERS, asked.join_next()).await.ok().flatten(),
            None => asked.join_next().await,
        };
        match next {
            Some(Ok(Ok(view))) => {
                let rank = |view: &TopologyView| (view.serves, view.epoch);
                if best.as_ref().is_none_or(|best| rank(best) < rank(&view)) {
                    best = Some(view);
                }
            }
            Some(Ok(Err(error))) => why = error.to_string(),
            Some(Err(_)) => {}
            None => break,
        }
    }
    best.ok_or(why)
}

/// What one node says.
async fn view(node: &Node) -> Result<TopologyView> {
    let about = |what| redis::cmd("CLUSTER").arg(what).to_owned();
    let send = async |what| {
        let sent = node.send(&about(what), false).await;
        sent.map_err(|trouble| node.link.error(trouble))
    };
    let info: String =
        redis::from_redis_value(send("INFO").await?).map_err(redis::RedisError::from)?;
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    let Value::Array(ranges) = send("SLOTS").await? else {
        return Err(Error::unavailable(
            "CLUSTER SLOTS of a form that is not known",
        ));
    };
    Ok(TopologyView {
        serves: info.contains("cluster_state:ok"),
        epoch: number("cluster_current_epoch:").unwrap_or_default(),
        ranges: ranges
            .iter()
            .filter_map(|range| parse(range, node))
            .collect(),
    })
}

/// `from, to, [host, port, …], replicas …`.
fn parse(range: &Value, node: &Node) -> Option<Range> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [Value::Int(from), Value::Int(to), Value::Array(master), ..] = &parts[..] else {
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
        from: u16::try_from(*from).ok()?,
        to: u16::try_from(*to).ok()?,
        // It may not know by which name it is reached. We do.
        host: if matches!(host, "" | "?") {
            &node.host
        } else {
            host
        }
        .to_owned(),
        port: u16::try_from(*port).ok()?,
    })
}
