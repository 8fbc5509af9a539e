//! Records that an application keeps where its effects are, and what may go wrong with them.

use super::*;

#[derive(Default)]
struct Ledger {
    committed: Mutex<HashMap<String, RecordedResponse>>,
    /// What is not well with it.
    cannot_be_read: bool,
    cannot_be_written: bool,
    saved: AtomicUsize,
    looked: AtomicUsize,
    /// The first who looks is held up on the way back.
    held_up: Option<Gate>,
}

impl RecordStore for Ledger {
    async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
        if self.cannot_be_read {
            return Err("db.internal:5432 does not answer".into());
        }
        let found = self.committed.lock().unwrap().get(&key.id()).cloned();
        let first = self.looked.fetch_add(1, Ordering::SeqCst) == 0;
        if let (true, Some(gate)) = (first, &self.held_up) {
            gate.pass().await;
        }
        Ok(found)
    }

    async fn save(&self, key: &RequestKey, record: &RecordedResponse) -> Result<(), BoxError> {
        self.saved.fetch_add(1, Ordering::SeqCst);
        if self.cannot_be_written {
            return Err("the disk is full".into());
        }
        let mut committed = self.committed.lock().unwrap();
        committed.insert(key.id(), record.clone());
        Ok(())
    }
}

#[tokio::test]
async fn who_finished_between_a_look_and_a_claim_is_seen() {
    let gate = Gate::shut();
    let ledger = Arc::new(Ledger {
        held_up: Some(gate.clone()),
        ..Ledger::default()
    });
    let payments = payments();
    let app = payments.app(&IdempotencyLayer::new(ledger));
    let slow = sending(&app, pay("k"));
    gate.came().await;
    assert_eq!(send(&app, pay("k")).await.body, "1: 12.50");
    gate.let_go(1);
    let slow = slow.await.unwrap();
    assert!(is_replayed(&slow) && slow.body == "1: 12.50", "{slow:?}");
    assert_eq!(payments.made(), 1);
}

#[tokio::test]
async fn records_that_cannot_be_read_are_no_answer_unless_said_otherwise() {
    let broken = || {
        IdempotencyLayer::new(Ledger {
            cannot_be_read: true,
            ..Ledger::default()
        })
    };
    let payments = payments();
    let refused = send(&payments.app(&broken()), pay("k")).await;
    assert_eq!(
        (refused.status, &refused.code()[..]),
        (503, "store_unavailable")
    );
    assert!(!refused.body.contains("internal"), "{}", refused.body);
    assert_eq!(payments.made(), 0);
    let open = payments.app(&broken().fail_open());
    assert_eq!(send(&open, pay("k")).await.status, 201);
}

#[tokio::test]
async fn a_handler_may_record_in_its_own_transaction() {
    let ledger = Arc::new(Ledger::default());
    let handler = {
        let ledger = ledger.clone();
        async move |Extension(key): Extension<RequestKey>| {
            let location = HeaderValue::from_static("/payments/1/");
            let record = RecordedResponse::new(&key, StatusCode::CREATED, "paid")
                .header(header::LOCATION, location);
            ledger.committed.lock().unwrap().insert(key.id(), record);
            // Whoever committed it, the answer is lost.
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let layer = IdempotencyLayer::new(ledger.clone());
    let app = Router::new().route("/payments/", any(handler)).layer(layer);
    assert_eq!(send(&app, pay("k")).await.status, 503);
    let settled = send(&app, pay("k")).await;
    assert_eq!((settled.status, &settled.body[..]), (201, "paid"));
    assert!(is_replayed(&settled) && settled.header("location") == "/payments/1/");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_recorded_stands_and_its_claim_is_kept() {
    let ledger = Arc::new(Ledger {
        cannot_be_written: true,
        ..Ledger::default()
    });
    let (payments, store) = (payments(), Store::memory());
    let layer = IdempotencyLayer::new(ledger.clone()).claim_in(&store, LEASE);
    let app = payments.app(&layer);
    assert_eq!(send(&app, pay("k")).await.status, 201);
    assert_eq!(ledger.saved.load(Ordering::SeqCst), 3, "tried again");
    assert_eq!(send(&app, pay("k")).await.code(), "in_flight");
    sleep(LEASE).await;
    assert_eq!(send(&app, pay("k")).await.body, "2: 12.50");
}
