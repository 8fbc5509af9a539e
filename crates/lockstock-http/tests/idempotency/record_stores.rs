//! Record stores of an application, and their failures.

use super::*;

#[derive(Default)]
struct Ledger {
    committed: Mutex<HashMap<String, RecordedResponse>>,
    fails_to_read: bool,
    fails_to_write: bool,
    saved: AtomicUsize,
    looked: AtomicUsize,
    /// Delays the first look-up after its read.
    delay: Option<Gate>,
}

impl RecordStore for Ledger {
    async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
        if self.fails_to_read {
            return Err("db.internal:5432 does not response".into());
        }
        let found = self.committed.lock().unwrap().get(&key.id()).cloned();
        let first = self.looked.fetch_add(1, Ordering::SeqCst) == 0;
        if let (true, Some(gate)) = (first, &self.delay) {
            gate.pass().await;
        }
        Ok(found)
    }

    async fn save(&self, key: &RequestKey, record: &RecordedResponse) -> Result<(), BoxError> {
        self.saved.fetch_add(1, Ordering::SeqCst);
        if self.fails_to_write {
            return Err("the disk is full".into());
        }
        let mut committed = self.committed.lock().unwrap();
        committed.insert(key.id(), record.clone());
        Ok(())
    }
}

#[tokio::test]
async fn a_request_that_finished_between_look_up_and_claim_is_replayed() {
    let gate = Gate::closed();
    let ledger = Arc::new(Ledger {
        delay: Some(gate.clone()),
        ..Ledger::default()
    });
    let payments = payments();
    let app = payments.app(&IdempotencyLayer::new(ledger));
    let slow = sending(&app, pay("k"));
    gate.entered().await;
    assert_eq!(send(&app, pay("k")).await.body, "1: 12.50");
    gate.release(1);
    let slow = slow.await.unwrap();
    assert!(is_replayed(&slow) && slow.body == "1: 12.50", "{slow:?}");
    assert_eq!(payments.made(), 1);
}

#[tokio::test]
async fn unreadable_records_reject_requests_unless_the_layer_fails_open() {
    let broken = || {
        IdempotencyLayer::new(Ledger {
            fails_to_read: true,
            ..Ledger::default()
        })
    };
    let payments = payments();
    let rejected = send(&payments.app(&broken()), pay("k")).await;
    assert_eq!(
        (rejected.status, &rejected.code()[..]),
        (503, "store_unavailable")
    );
    assert!(!rejected.body.contains("internal"), "{}", rejected.body);
    assert_eq!(payments.made(), 0);
    let open = payments.app(&broken().fail_open());
    assert_eq!(send(&open, pay("k")).await.status, 201);
}

#[tokio::test]
async fn a_handler_can_record_in_its_own_transaction() {
    let ledger = Arc::new(Ledger::default());
    let handler = {
        let ledger = ledger.clone();
        async move |Extension(key): Extension<RequestKey>| {
            let location = HeaderValue::from_static("/payments/1/");
            let record = RecordedResponse::new(&key, StatusCode::CREATED, "paid")
                .header(header::LOCATION, location);
            ledger.committed.lock().unwrap().insert(key.id(), record);
            // The commit succeeded, and its reply was lost.
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let layer = IdempotencyLayer::new(ledger.clone());
    let app = Router::new().route("/payments/", any(handler)).layer(layer);
    assert_eq!(send(&app, pay("k")).await.status, 503);
    let replayed = send(&app, pay("k")).await;
    assert_eq!((replayed.status, &replayed.body[..]), (201, "paid"));
    assert!(is_replayed(&replayed) && replayed.header("location") == "/payments/1/");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_cannot_be_recorded_is_returned_and_its_claim_is_kept() {
    let ledger = Arc::new(Ledger {
        fails_to_write: true,
        ..Ledger::default()
    });
    let (payments, store) = (payments(), Store::memory());
    let layer = IdempotencyLayer::new(ledger.clone()).claim_in(&store, LEASE);
    let app = payments.app(&layer);
    assert_eq!(send(&app, pay("k")).await.status, 201);
    assert_eq!(ledger.saved.load(Ordering::SeqCst), 3, "retried");
    assert_eq!(send(&app, pay("k")).await.code(), "in_flight");
    sleep(LEASE).await;
    assert_eq!(send(&app, pay("k")).await.body, "2: 12.50");
}
