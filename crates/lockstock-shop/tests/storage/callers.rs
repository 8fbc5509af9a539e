//! The caller in the ledger, on each kind of database and on each way of writing.

use lockstock_shop::storage::{
    Changes, OrderKind, OrderOutcome, RequestContext, Storage, WriteContext, WriteOutcome,
};

use crate::idempotency::context;
use crate::{
    POSTGRES, audited, created, fenced, mug, new_postgres_database, on_each_database, order,
    purchase, stock,
};

/// A request with an API key of this name.
fn by(name: &str) -> RequestContext {
    RequestContext {
        caller: name.into(),
        has_key: true,
        ..RequestContext::default()
    }
}

fn without_idempotency(request: RequestContext) -> WriteContext {
    WriteContext {
        request,
        idempotency: None,
    }
}

async fn submit(storage: &dyn Storage, product: i64, kind: OrderKind, name: &str) -> OrderOutcome {
    let mut order = order(product, kind);
    order.request = by(name);
    storage.submit_order(order).await.unwrap()
}

async fn update(
    storage: &dyn Storage,
    id: i64,
    changes: Changes,
    fence: u64,
    context: WriteContext,
) {
    let written = storage.update(id, changes, fenced(fence), context).await;
    let written = written.unwrap();
    assert!(matches!(written, WriteOutcome::Done(_)), "{written:?}");
}

#[tokio::test]
async fn each_entry_of_the_ledger_has_the_name_of_the_key() {
    on_each_database(async |storage| {
        let new = storage.create(mug(10), without_idempotency(by("creator")));
        let WriteOutcome::Done(product) = new.await.unwrap() else {
            panic!("not created")
        };
        let id = product.id;
        update(
            &*storage,
            id,
            stock(9),
            1,
            without_idempotency(by("updater")),
        )
        .await;
        let recorded = WriteContext {
            request: by("recorded"),
            ..context("key")
        };
        update(&*storage, id, stock(8), 2, recorded).await;
        // Credentials that are not checked are no name.
        let unchecked = RequestContext {
            caller: "a digest".into(),
            ..RequestContext::default()
        };
        update(&*storage, id, stock(7), 3, without_idempotency(unchecked)).await;
        submit(&*storage, id, purchase(1), "buyer").await;
        let reserve = OrderKind::Reserve {
            quantity: 1,
            ttl: std::time::Duration::from_secs(60),
        };
        let OrderOutcome::Held(held) = submit(&*storage, id, reserve, "owner").await else {
            panic!("not held")
        };
        let confirm = OrderKind::Confirm {
            reservation: held.id,
        };
        submit(&*storage, id, confirm, "owner").await;
        let entries = audited(&*storage, id).await;
        let callers = entries.iter().map(|entry| entry.caller.as_deref());
        assert_eq!(
            callers.collect::<Vec<_>>(),
            [
                Some("creator"),
                Some("updater"),
                Some("recorded"),
                None,
                Some("buyer"),
                Some("owner"),
            ]
        );
        let deleted = storage.delete(id, fenced(4), by("remover")).await.unwrap();
        assert!(matches!(deleted, WriteOutcome::Done(_)), "{deleted:?}");
        let entries = audited(&*storage, id).await;
        assert_eq!(entries.last().unwrap().caller.as_deref(), Some("remover"));
    })
    .await;
}

/// During a rolling upgrade servers of the version before write to the migrated database.
#[tokio::test]
async fn an_entry_of_the_version_before_has_no_caller() {
    let url = new_postgres_database();
    let storage = lockstock_shop::storage::open(&url, crate::OPTIONS)
        .await
        .unwrap();
    let id = created(&*storage, mug(3)).await.id;
    let (_, name) = url.rsplit_once('/').unwrap();
    POSTGRES.psql(
        name,
        &format!(
            "UPDATE products SET stock = 2, version = 2 WHERE id = {id};
             INSERT INTO ledger (product, version, id, reason, delta, stock_after, request, fence, at)
             VALUES ({id}, 2, gen_random_uuid(), 'changed', -1, 2, 'old', 1, now())"
        ),
    );
    let entries = audited(&*storage, id).await;
    assert_eq!((&*entries[1].request, &entries[1].caller), ("old", &None));
    storage.close().await;
}
