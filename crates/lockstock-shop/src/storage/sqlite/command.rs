//! The commands of the writer, and their replies.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::{
    Changes, NewProduct, Order, OrderOutcome, Precondition, Product, RequestContext, Result,
    StorageError, WriteContext, WriteOutcome,
};
use crate::batch::StartToken;

/// A command in the queue of the writer.
pub(super) struct Write {
    pub(super) command: Command,
    pub(super) start: StartToken,
}

/// A write, with the reply that its caller waits for.
pub(super) enum Command {
    Create {
        new: NewProduct,
        context: WriteContext,
        reply: DeferredReply<WriteOutcome<Product>>,
    },
    CreateIfEmpty {
        new: Vec<NewProduct>,
        reply: DeferredReply<bool>,
    },
    Update {
        id: i64,
        changes: Changes,
        precondition: Precondition,
        context: WriteContext,
        reply: DeferredReply<WriteOutcome<Product>>,
    },
    Delete {
        id: i64,
        precondition: Precondition,
        request: RequestContext,
        reply: DeferredReply<WriteOutcome<Product>>,
    },
    Order {
        order: Order,
        reply: DeferredReply<OrderOutcome>,
    },
    DeleteExpiredRecords {
        max: i64,
        reply: DeferredReply<u64>,
    },
}

/// A reply whose value is known when its command has run, and which is sent when the
/// transaction has ended.
pub(super) struct DeferredReply<T> {
    sender: oneshot::Sender<Result<T>>,
    value: Option<T>,
}

impl<T> DeferredReply<T> {
    pub(super) fn new(sender: oneshot::Sender<Result<T>>) -> Self {
        Self {
            sender,
            value: None,
        }
    }

    pub(super) fn set(&mut self, value: T) {
        self.value = Some(value);
    }

    fn send(self, committed: &Result<()>) {
        let result = match committed {
            Ok(()) => self
                .value
                .ok_or_else(|| StorageError::bug("a committed command has no result")),
            Err(error) => Err(error.clone()),
        };
        // Fails if the caller no longer waits.
        let _ = self.sender.send(result);
    }
}

impl Command {
    pub(super) fn is_keyed_order(&self) -> bool {
        matches!(self, Self::Order { order, .. } if order.idempotency.is_some())
    }

    /// Returns when the command must be committed at the latest, if it has written under a lock.
    pub(super) fn commit_deadline(&self) -> Option<Instant> {
        match self {
            Self::Update {
                precondition,
                reply,
                ..
            }
            | Self::Delete {
                precondition,
                reply,
                ..
            } => {
                let has_written = matches!(reply.value, Some(WriteOutcome::Done(_)));
                has_written.then_some(precondition.window.deadline)
            }
            Self::Create { .. }
            | Self::CreateIfEmpty { .. }
            | Self::Order { .. }
            | Self::DeleteExpiredRecords { .. } => None,
        }
    }

    /// Replies to the caller when the transaction has ended.
    pub(super) fn reply(self, committed: &Result<()>) {
        match self {
            Self::Create { reply, .. }
            | Self::Update { reply, .. }
            | Self::Delete { reply, .. } => reply.send(committed),
            Self::CreateIfEmpty { reply, .. } => reply.send(committed),
            Self::Order { order, reply } => {
                if let (Ok(()), Some(outcome)) = (committed, &reply.value) {
                    outcome.count(order.kind);
                }
                reply.send(committed);
            }
            Self::DeleteExpiredRecords { reply, .. } => reply.send(committed),
        }
    }
}
