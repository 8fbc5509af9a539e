//! What an observer of the layer sees.

use std::sync::{Arc, Mutex};

use axum::http::request::Parts;
use lockstock_http::{LockEvent, LockObservation, LockObserver};

use super::*;

/// Writes down the events, each with the name of the lock or the header `x-request`.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

struct Recording {
    recorder: Arc<Recorder>,
    name: String,
}

struct SharedRecorder(Arc<Recorder>);

impl LockObserver for SharedRecorder {
    fn begin(&self, lock: &str, request: &Parts) -> Option<Box<dyn LockObservation>> {
        let name = request.headers.get("x-request")?.to_str().unwrap();
        let recording = Recording {
            recorder: self.0.clone(),
            name: name.to_owned(),
        };
        recording.note(&format!("asks for {lock}"));
        Some(Box::new(recording))
    }
}

impl Recording {
    fn note(&self, event: &str) {
        let mut events = self.recorder.0.lock().unwrap();
        events.push(format!("{} {event}", self.name));
    }
}

impl LockObservation for Recording {
    fn event(&mut self, event: LockEvent<'_>) {
        match event {
            LockEvent::Granted(guard) => {
                assert!(guard.fence() > 0);
                self.note("granted");
            }
            LockEvent::Rejected { kept, retry_after } => {
                assert!(retry_after <= LEASE);
                self.note(if kept { "rejected: kept" } else { "rejected" });
            }
            LockEvent::Released => self.note("released"),
            LockEvent::Kept => self.note("kept"),
            LockEvent::Lost => self.note("lost"),
            LockEvent::Failed => self.note("failed"),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.note("dropped");
    }
}

fn observed(layer: LockLayer) -> (LockLayer, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let observer = Arc::new(SharedRecorder(recorder.clone()));
    (layer.observed_by(observer), recorder)
}

fn post_as(name: &str, path: &str) -> Request<axum::body::Body> {
    let mut request = post(path);
    request
        .headers_mut()
        .insert("x-request", name.parse().unwrap());
    request
}

impl Recorder {
    /// Waits until an event is written down, and returns all events.
    async fn until(&self, event: &str) -> Vec<String> {
        let seen = async {
            loop {
                let events = self.0.lock().unwrap().clone();
                if events.iter().any(|it| it == event) {
                    return events;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        timeout(TIMEOUT, seen).await.expect(event)
    }
}

#[tokio::test]
async fn an_observer_sees_each_request_from_its_question_to_its_end() {
    on_each_store(async |[one, _]| {
        let gate = Gate::closed();
        let (layer, recorder) = observed(cooldown(&one));
        let app = app(&gate, &layer);
        // Not observed: it has no name.
        gate.release(1);
        assert_eq!(send(&app, post("/reports/other/")).await.status, 200);
        let first = sending(&app, post_as("a", "/reports/weekly/"));
        gate.entered().await;
        gate.entered().await;
        assert_eq!(
            send(&app, post_as("b", "/reports/weekly/")).await.status,
            429
        );
        gate.release(1);
        assert_eq!(first.await.unwrap().status, 200);
        assert_eq!(
            send(&app, post_as("c", "/reports/weekly/")).await.status,
            429
        );
        let events = recorder.until("c dropped").await;
        assert_eq!(
            events,
            [
                "a asks for /reports/weekly/",
                "a granted",
                "b asks for /reports/weekly/",
                "b rejected",
                "b dropped",
                "a kept",
                "a dropped",
                "c asks for /reports/weekly/",
                "c rejected: kept",
                "c dropped",
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn an_observer_sees_that_a_waiting_client_disconnects() {
    on_each_store(async |[one, _]| {
        let gate = Gate::closed();
        let (layer, recorder) = observed(exclusive(&one).wait(LEASE));
        let app = app(&gate, &layer);
        let first = sending(&app, post_as("a", "/reports/weekly/"));
        gate.entered().await;
        let second = sending(&app, post_as("b", "/reports/weekly/"));
        recorder.until("b asks for /reports/weekly/").await;
        disconnect(second).await;
        let events = recorder.until("b dropped").await;
        assert!(!events.contains(&"b granted".to_owned()), "{events:?}");
        gate.release(1);
        assert_eq!(first.await.unwrap().status, 200);
        recorder.until("a released").await;
    })
    .await;
}

#[tokio::test]
async fn an_observer_sees_a_lost_lock_and_a_store_that_is_down() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let gate = Gate::closed();
    let (layer, recorder) = observed(LockLayer::exclusive(&store, Key::path(PATH), SHORT));
    let app = app(&gate, &layer);
    let lost = send(&app, post_as("a", "/reports/weekly/")).await;
    assert_eq!(lost.status, 409);
    recorder.until("a lost").await;
    drop(redis);
    let failed = send(&app, post_as("b", "/reports/weekly/")).await;
    assert_eq!(failed.status, 503);
    recorder.until("b failed").await;
}
