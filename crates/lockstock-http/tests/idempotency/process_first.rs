//! Requests that are processed before their records are looked up.

use std::sync::atomic::AtomicBool;

use harness::wait_for_waiters;
use lockstock::LockKind;
use lockstock_http::{Key, LockLayer, OutcomeUnknown};

use super::*;

/// Table of records with a unique key, whose transactions have one effect each.
#[derive(Clone, Default)]
struct Table {
    rows: Arc<Mutex<HashMap<String, RecordedResponse>>>,
    looked_up: Arc<AtomicUsize>,
    /// How handlers fail before their transaction.
    failure: Arc<Mutex<Option<StatusCode>>>,
    /// The replies to commits are lost.
    loses_replies: Arc<AtomicBool>,
    is_unreadable: Arc<AtomicBool>,
    gate: Option<Gate>,
}

impl RecordStore for Table {
    async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
        self.looked_up.fetch_add(1, Ordering::SeqCst);
        if self.is_unreadable.load(Ordering::SeqCst) {
            return Err("the connection is lost".into());
        }
        Ok(self.rows.lock().unwrap().get(&key.id()).cloned())
    }
}

impl Table {
    fn layer(&self) -> IdempotencyLayer {
        IdempotencyLayer::transactional(self.clone()).process_first()
    }

    /// Inserts the record of a payment, or replays the one that is there.
    async fn pay(&self, key: &RequestKey) -> axum::response::Response {
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        if let Some(status) = *self.failure.lock().unwrap() {
            return status.into_response();
        }
        let mut rows = self.rows.lock().unwrap();
        let number = rows.len() + 1;
        match rows.get(&key.id()) {
            Some(found) if found.fingerprint == key.fingerprint => found.clone().replay(),
            Some(_) => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
            None => {
                let paid = format!("payment {number}");
                let record = RecordedResponse::new(key, StatusCode::CREATED, paid);
                rows.insert(key.id(), record.clone());
                if self.loses_replies.load(Ordering::SeqCst) {
                    return (StatusCode::SERVICE_UNAVAILABLE, Extension(OutcomeUnknown))
                        .into_response();
                }
                record.into_response()
            }
        }
    }

    fn handlers(&self) -> Router {
        let table = self.clone();
        let handler = async move |Extension(key): Extension<RequestKey>| table.pay(&key).await;
        Router::new().route("/payments/", any(handler))
    }

    fn app(&self) -> Router {
        self.handlers().layer(self.layer())
    }

    /// Returns an app whose requests wait for the lock `till`.
    fn locked_app(&self, store: &Store) -> Router {
        let key = Key::from_fn(|_| Some("till".to_owned()));
        let lock = LockLayer::exclusive(store, key, LEASE).wait(TIMEOUT);
        self.handlers().layer((self.layer(), lock))
    }

    fn fail(&self, status: Option<StatusCode>) {
        *self.failure.lock().unwrap() = status;
    }

    fn looked_up(&self) -> usize {
        self.looked_up.load(Ordering::SeqCst)
    }
}

fn request(key: &str, body: &'static str) -> Request<Body> {
    let request = Request::post("/payments/").header("idempotency-key", key);
    request.body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn only_the_transaction_looks_for_the_record_of_a_request_that_succeeds() {
    let table = Table::default();
    let app = table.app();
    let first = send(&app, request("k", "12.50")).await;
    assert_eq!((first.status, &first.body[..]), (201, "payment 1"));
    assert!(!is_replayed(&first));
    let second = send(&app, request("k", "12.50")).await;
    assert!(is_replayed(&second) && second.body == first.body);
    assert_eq!(
        send(&app, request("other", "12.50")).await.body,
        "payment 2"
    );
    assert_eq!(table.looked_up(), 0);
}

#[tokio::test]
async fn a_request_that_fails_gets_what_its_record_implies() {
    for failure in [StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE] {
        let table = Table::default();
        let app = table.app();
        table.fail(Some(failure));
        assert_eq!(
            send(&app, request("k", "12.50")).await.status,
            failure.as_u16()
        );
        table.fail(None);
        let paid = send(&app, request("k", "12.50")).await;
        assert_eq!(paid.status, 201);
        table.fail(Some(failure));
        let replayed = send(&app, request("k", "12.50")).await;
        assert!(is_replayed(&replayed) && replayed.body == paid.body);
        let reused = send(&app, request("k", "13.00")).await;
        assert_eq!((reused.status, &reused.code()[..]), (422, "key_reused"));
    }
}

#[tokio::test]
async fn a_failure_is_not_final_while_the_record_cannot_be_read() {
    let table = Table::default();
    let app = table.app();
    assert_eq!(send(&app, request("k", "12.50")).await.status, 201);
    table.is_unreadable.store(true, Ordering::SeqCst);
    table.fail(Some(StatusCode::CONFLICT));
    let rejected = send(&app, request("k", "12.50")).await;
    assert_eq!(
        (rejected.status, &rejected.code()[..]),
        (503, "store_unavailable")
    );
    table.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(send(&app, request("k", "12.50")).await.status, 500);
    table.is_unreadable.store(false, Ordering::SeqCst);
    assert!(is_replayed(&send(&app, request("k", "12.50")).await));
}

#[tokio::test]
async fn a_commit_whose_reply_was_lost_keeps_the_lock_and_a_replay_does_not() {
    let (table, store) = (Table::default(), Store::memory());
    let key = Key::from_fn(|_| Some("till".to_owned()));
    let lock = LockLayer::cooldown(&store, key, LEASE);
    let app = table.handlers().layer((lock, table.layer()));
    table.loses_replies.store(true, Ordering::SeqCst);
    let first = send(&app, request("k", "12.50")).await;
    assert_eq!((first.status, &first.body[..]), (201, "payment 1"));
    assert_eq!(send(&app, request("other", "12.50")).await.status, 429);
    let released = store.force_release(LockKind::Lock, "till", None).await;
    assert!(released.unwrap());
    assert!(is_replayed(&send(&app, request("k", "12.50")).await));
    assert_eq!(
        send(&app, request("other", "12.50")).await.body,
        "payment 2"
    );
}

#[tokio::test]
async fn a_key_in_flight_is_rejected_unless_it_has_a_record() {
    let gate = Gate::closed();
    let table = Table {
        gate: Some(gate.clone()),
        ..Table::default()
    };
    let app = table.app();
    let first = sending(&app, request("k", "12.50"));
    gate.entered().await;
    assert_eq!(send(&app, request("k", "12.50")).await.code(), "in_flight");
    assert_eq!(table.looked_up(), 1);
    gate.release(1);
    assert_eq!(first.await.unwrap().status, 201);
    let slow = sending(&app, request("k", "12.50"));
    gate.entered().await;
    let replayed = send(&app, request("k", "12.50")).await;
    assert!(is_replayed(&replayed), "{replayed:?}");
    gate.release(1);
    assert!(is_replayed(&slow.await.unwrap()));
}

#[tokio::test]
async fn a_request_that_waits_for_a_lock_is_replayed_and_withdrawn() {
    on_each_store(async |[store, other]| {
        let table = Table::default();
        let app = table.locked_app(&store);
        let first = send(&app, request("k", "12.50")).await;
        assert_eq!((first.status, table.looked_up()), (201, 0));
        let lock = other.lock("till").lease(LEASE).unwrap();
        let held = lock.acquire().await.unwrap();
        let again = send(&app, request("k", "12.50")).await;
        assert!(is_replayed(&again) && again.body == first.body);
        let reused = send(&app, request("k", "13.00")).await;
        assert_eq!(reused.code(), "key_reused");
        wait_for_waiters(&other, "till", 0).await;
        // A new request waits on.
        let new = sending(&app, request("new", "12.50"));
        wait_for_waiters(&other, "till", 1).await;
        held.release().await.unwrap();
        assert_eq!(new.await.unwrap().body, "payment 2");
    })
    .await;
}

#[tokio::test]
async fn claims_of_other_processes_are_respected() {
    on_each_store(async |[one, two]| {
        let gate = Gate::closed();
        let table = Table {
            gate: Some(gate.clone()),
            ..Table::default()
        };
        let app = |store| {
            let layer = table.layer().claim_in(store, LEASE);
            table.handlers().layer(layer)
        };
        let (here, there) = (app(&one), app(&two));
        let first = sending(&here, request("k", "12.50"));
        gate.entered().await;
        assert_eq!(
            send(&there, request("k", "12.50")).await.code(),
            "in_flight"
        );
        gate.release(2);
        assert_eq!(first.await.unwrap().status, 201);
        let repeated = async {
            loop {
                // The claim is released in the background.
                let response = send(&there, request("k", "12.50")).await;
                if response.status != 409 {
                    return response;
                }
            }
        };
        let repeated = timeout(TIMEOUT, repeated).await.unwrap();
        assert!(is_replayed(&repeated), "{repeated:?}");
    })
    .await;
}

#[test]
#[should_panic = "only the transaction of a handler prevents a second effect"]
fn a_layer_that_records_after_the_effect_cannot_process_first() {
    let _ = IdempotencyLayer::new(Table::default()).process_first();
}
