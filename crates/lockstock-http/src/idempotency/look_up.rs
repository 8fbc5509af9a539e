//! Whether a request is processed, replayed or rejected: by the record of its key, and its claim.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::claim::Claim;
use super::{IdempotencyLayer, RecordedResponse, RequestKey};
use crate::late_look_up::LateLookUp;
use crate::rejection::Rejection;

/// When a client should ask for the result of a request in flight.
const IN_FLIGHT_RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) enum NextAction {
    Process(Claim),
    Replay(RecordedResponse),
    Reject(Rejection),
}

impl IdempotencyLayer {
    pub(super) async fn next_action(&self, key: &RequestKey) -> NextAction {
        let in_flight = || {
            NextAction::Reject(Rejection::InFlight {
                retry_after: IN_FLIGHT_RETRY_AFTER,
            })
        };
        // A transactional layer looks for the record and claims at the same time, or claims first: the
        // transaction of the handler finds a record that is written in between.
        let mut claim = match self.transactional {
            true => self.claims.claim(key),
            false => None,
        };
        let (recorded, distributed) = match &mut claim {
            Some(claim) if self.processes_first => match claim.distribute().await {
                Ok(true) => (None, Some(Ok(true))),
                unclaimed => (self.recorded_action(key).await, Some(unclaimed)),
            },
            Some(claim) => {
                let (recorded, distributed) =
                    tokio::join!(self.recorded_action(key), claim.distribute());
                (recorded, Some(distributed))
            }
            None => (self.recorded_action(key).await, None),
        };
        if let Some(action) = recorded {
            return action;
        }
        let Some(mut claim) = claim.or_else(|| self.claims.claim(key)) else {
            return in_flight();
        };
        let distributed = match distributed {
            Some(distributed) => distributed,
            None => claim.distribute().await,
        };
        match distributed {
            Ok(true) => {}
            Ok(false) => return in_flight(),
            Err(error) if self.fail_open => {
                warn!(%error, "processing the request without a claim");
            }
            Err(error) => {
                debug!(%error, "the key could not be claimed");
                let error = error.into();
                return NextAction::Reject(Rejection::StoreUnavailable { error });
            }
        }
        // A request that held the claim may have finished after the first look-up.
        if self.transactional {
            return NextAction::Process(claim);
        }
        match self.recorded_action(key).await {
            Some(action) => {
                claim.release().await;
                action
            }
            None => NextAction::Process(claim),
        }
    }

    /// Returns the look-up for a request that is processed before it.
    pub(super) fn late_look_up(self: &Arc<Self>, key: &RequestKey) -> LateLookUp {
        let (layer, key) = (self.clone(), key.clone());
        LateLookUp::new(move || {
            let (layer, key) = (layer.clone(), key.clone());
            async move {
                match layer.recorded_action(&key).await? {
                    NextAction::Replay(record) => Some(Ok(record.replay())),
                    NextAction::Reject(reused @ Rejection::KeyReused) => Some(Err(reused)),
                    _ => None,
                }
            }
        })
    }

    /// Returns the action that a record implies, or that it cannot be read; `None` without a record.
    pub(super) async fn recorded_action(&self, key: &RequestKey) -> Option<NextAction> {
        match self.records.find(key).await {
            Ok(Some(record)) if record.fingerprint == key.fingerprint => {
                Some(NextAction::Replay(record))
            }
            Ok(Some(_)) => Some(NextAction::Reject(Rejection::KeyReused)),
            Ok(None) => None,
            Err(error) if self.fail_open => {
                warn!(
                    error,
                    "processing the request without looking up its record"
                );
                None
            }
            Err(error) => {
                debug!(error, "the record could not be looked up");
                Some(NextAction::Reject(Rejection::StoreUnavailable { error }))
            }
        }
    }
}
