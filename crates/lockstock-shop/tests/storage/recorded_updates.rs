//! Updates with idempotency keys beside other writes: what is recorded is what was written.

use std::time::Duration;

use futures_util::future::{join, join_all};
use lockstock_shop::storage::{
    self, Changes, IdempotencyKey, IdempotentWrite, OrderKind, Product, Reason, RequestContext,
    StorageOptions, WriteContext, WriteOutcome,
};

use crate::{
    OPTIONS, assert_no_deadlock, audited, created, fenced, found, mug, new_postgres_database,
    on_each_database, order, purchase, stock,
};

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey {
        caller: "ann".into(),
        key: name.into(),
    }
}

/// A write whose recorded response has every field of the product.
fn recorded_under(name: &str) -> WriteContext {
    WriteContext {
        request: RequestContext::default(),
        idempotency: Some(IdempotentWrite {
            key: key(name),
            fingerprint: [7; 32],
            response: rendered,
        }),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field")]
fn rendered(product: &Product) -> Option<Vec<u8>> {
    Some(format!("{product:?}").into_bytes())
}

fn named(name: String) -> Changes {
    Changes {
        name: Some(name),
        ..Changes::default()
    }
}

#[tokio::test]
async fn the_response_that_is_recorded_is_the_product_as_it_was_written() {
    on_each_database(async |storage| {
        let mut products = Vec::new();
        for _ in 0..4 {
            products.push(created(&*storage, mug(1000)).await.id);
        }
        for round in 1..=20 {
            let updates = products.iter().map(|&id| {
                let name = format!("{round}-{id}");
                let (changes, context) = (named(name.clone()), recorded_under(&name));
                let update = storage.update(id, changes, fenced(round), context);
                async { (name, update.await.unwrap()) }
            });
            // They change the stock and the held units, beside an update that knows neither.
            let orders = products.iter().flat_map(|&id| {
                let reserve = OrderKind::Reserve {
                    quantity: 1,
                    ttl: Duration::from_secs(600),
                };
                [purchase(1), reserve].map(|kind| storage.submit_order(order(id, kind)))
            });
            let (updated, ordered) = join(join_all(updates), join_all(orders)).await;
            assert!(ordered.iter().all(Result::is_ok), "{ordered:?}");
            for (name, outcome) in updated {
                let WriteOutcome::Done(product) = outcome else {
                    panic!("{outcome:?}")
                };
                assert_eq!(product.name, name);
                let record = storage.find_record(&key(&name)).await.unwrap().unwrap();
                assert_eq!(Some(record.response), rendered(&product));
                let entries = audited(&*storage, product.id).await;
                let entry = entries
                    .iter()
                    .find(|entry| entry.version == product.version);
                let entry = entry.expect("a write has an entry");
                assert_eq!(entry.reason, Reason::Changed);
                assert_eq!((entry.delta, entry.stock_after), (0, product.stock));
            }
        }
    })
    .await;
    assert_no_deadlock();
}

#[tokio::test]
async fn of_updates_of_different_products_with_one_key_at_two_servers_one_takes_effect() {
    let url = new_postgres_database();
    let shared = StorageOptions {
        exclusive: false,
        ..OPTIONS
    };
    let servers = [
        storage::open(&url, shared).await.unwrap(),
        storage::open(&url, shared).await.unwrap(),
    ];
    for round in 0..20 {
        let name = format!("key-{round}");
        let mut products = Vec::new();
        for _ in 0..4 {
            products.push(created(&*servers[0], mug(1)).await);
        }
        let updates = products.iter().zip(servers.iter().cycle());
        let updates = updates.map(|(product, server)| {
            server.update(product.id, stock(9), fenced(1), recorded_under(&name))
        });
        // Beside them, updates with keys of their own, in the same batches.
        let others = products.iter().zip(servers.iter().cycle());
        let others = others.map(async |(product, server)| {
            let other = created(&**server, mug(1)).await.id;
            let name = format!("{name}-{}", product.id);
            let changes = stock(5);
            server
                .update(other, changes, fenced(1), recorded_under(&name))
                .await
        });
        let (outcomes, others) = join(join_all(updates), join_all(others)).await;
        for outcome in others {
            assert!(matches!(outcome, Ok(WriteOutcome::Done(_))), "{outcome:?}");
        }
        let record = servers[0].find_record(&key(&name)).await.unwrap().unwrap();
        let mut written = Vec::new();
        for (before, outcome) in products.into_iter().zip(outcomes) {
            let now = found(&*servers[1], before.id).await;
            match outcome.unwrap() {
                WriteOutcome::Done(product) => {
                    assert_eq!(now, product);
                    assert_eq!(Some(record.response.clone()), rendered(&product));
                    written.push(product.id);
                }
                WriteOutcome::AlreadyRecorded(other) => {
                    assert_eq!(other, record);
                    assert_eq!(now, before);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(written.len(), 1, "{written:?}");
    }
    assert_no_deadlock();
    for server in servers {
        server.close().await;
    }
}
