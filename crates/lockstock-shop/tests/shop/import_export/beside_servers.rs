//! Imports while servers serve the database, and imports that are killed.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use lockstock_testkit::{Postgres, Process};
use reqwest::Method;
use serde_json::json;

use super::{Shop, texts};
use crate::commit_faults::confirm_no_commit;
use crate::harness::{PATIENCE, Server, eventually, product, psql, sqlite};

/// Pauses an import before its commit for longer than any test takes.
const PAUSED: &str = "transaction.written=return(3600000)";

fn paused_import(shop: &Shop, text: &str) -> Process {
    let file = shop.file("paused.csv", text);
    let mut command = shop.command("import", &file, &["--update"]);
    command.env("FAILPOINTS", PAUSED).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Process::spawn(command).unwrap()
}

#[test]
fn an_import_that_is_killed_before_its_commit_has_written_nothing() {
    for shop in Shop::each() {
        let text = "id,name,price,stock\n1,Mug,1,5\n,Lamp,2,6\n";
        let file = shop.file("products.csv", text);
        let mut import = shop.command("import", &file, &[]);
        import.env("FAILPOINTS", "transaction.written=return(kill)");
        let output = import.output().unwrap();
        assert_eq!(output.status.code(), None, "{}", texts(&output).1);
        assert!(shop.products().is_empty());
        shop.import(&file, &[]);
        assert_eq!(shop.products().len(), 2);
    }
}

#[test]
fn an_import_that_is_killed_after_its_commit_has_written_everything() {
    for shop in Shop::each() {
        let file = shop.file("products.csv", "name,price\nMug,1\nLamp,2\n");
        let mut import = shop.command("import", &file, &[]);
        import.env("FAILPOINTS", "transaction.committed=return(kill)");
        assert_eq!(import.output().unwrap().status.code(), None);
        assert_eq!(shop.products().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_commit_is_not_confirmed_names_the_request_to_look_for() {
    let postgres = Postgres::start();
    let shop = Shop {
        database: postgres.create_database("shop"),
        folder: tempfile::tempdir().unwrap(),
    };
    shop.import(&shop.file("new.csv", "name,price\nMug,1\n"), &[]);
    let changed = shop.file("changed.csv", "id,price\n1,2\n");
    let pool = sqlx::PgPool::connect(&shop.database).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM products FOR UPDATE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let mut import = shop.command("import", &changed, &["--update"]);
    let import = tokio::task::spawn_blocking(move || import.output().unwrap());
    let waits_for = async |event: &str| {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lockstock import' \
             AND {event}"
        );
        eventually("the import waits", async || {
            (postgres.psql("shop", &waiting) == "1").then_some(())
        })
        .await;
    };
    waits_for("wait_event_type = 'Lock'").await;
    confirm_no_commit(&postgres);
    transaction.rollback().await.unwrap();
    waits_for("wait_event = 'SyncRep'").await;
    postgres.kill();
    let output = import.await.unwrap();
    let stderr = texts(&output).1;
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("it is not known whether"), "{stderr}");
    assert!(stderr.contains("the request import-"), "{stderr}");
    assert!(!stderr.contains("nothing was imported"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_only_the_products_that_an_import_changes_wait_for_it() {
    let shop = Shop::postgres();
    let server = shop.server();
    let (changed, other) = (server.create(5).await, server.create(5).await);
    let import = paused_import(
        &shop,
        &format!("id,name,price,stock\n{changed},Cup,1,4\n50,Lamp,2,6\n,Pen,3,7\n"),
    );
    eventually("the import has written", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lockstock import' \
            AND state = 'idle in transaction' AND query LIKE '%UPDATE products%' \
            AND datname = current_database()";
        (psql(&shop.database, waiting) == "1").then_some(())
    })
    .await;
    // Its ids are reserved, and nothing of it is visible.
    assert_eq!(server.buy(other, 1).await.status, 201);
    assert_eq!(server.patch(other, json!({ "price": 7 })).await.status, 200);
    assert_eq!(server.create(1).await, 52);
    assert_eq!(server.stock(changed).await, 5);
    assert_eq!(server.get(&product(50)).await.status, 404);
    import.kill();
    assert_eq!(server.buy(changed, 1).await.status, 201);
    assert_eq!(
        server.patch(changed, json!({ "price": 8 })).await.status,
        200
    );
    assert_eq!(server.get(&product(50)).await.status, 404);
    assert_eq!(server.ledger(changed).await.len(), 3);
    assert_eq!(server.ledger(other).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_writes_wait_for_an_import_and_are_rejected_if_it_takes_too_long() {
    let shop = Shop::sqlite();
    let server = Server::on("memory://", &shop.database)
        .args(&["--after-update", "release", "--database-timeout", "200ms"])
        .start();
    // More than are bought before the import begins.
    let id = server.create(1_000_000_000).await;
    let import = paused_import(&shop, &format!("id,price\n{id},4\n"));
    let rejected = eventually("a purchase is rejected", async || {
        let bought = server.buy(id, 1).await;
        (bought.status != 201).then_some(bought)
    })
    .await;
    assert_eq!(rejected.status, 503);
    assert_eq!(
        rejected.body["detail"],
        "The database is unavailable. Nothing was saved."
    );
    // Reads go on.
    let before = server.get(&product(id)).await;
    assert_eq!(before.status, 200);
    import.kill();
    let patched = eventually("a change is saved", async || {
        let patched = server.patch(id, json!({ "price": 8 })).await;
        (patched.status == 200).then_some(patched)
    })
    .await;
    assert_eq!(patched.body["stock"], before.body["stock"]);
    server.ledger(id).await;
}

#[test]
fn an_import_into_a_file_that_a_server_has_opened_under_another_path_is_refused() {
    let shop = Shop::sqlite();
    let _server = shop.server();
    let moved = Shop {
        database: sqlite(&shop.path("moved.sqlite3")),
        folder: tempfile::tempdir().unwrap(),
    };
    fs::rename(shop.path("shop.sqlite3"), shop.path("moved.sqlite3")).unwrap();
    let file = shop.file("products.csv", "name,price\nMug,1\n");
    for (database, words) in [
        (&moved, "under another path"),
        (&shop, "has opened the file that was here before"),
    ] {
        let output = database.run("import", &file, &[]);
        let stderr = texts(&output).1;
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_has_seen_the_version_before_an_import_is_rejected() {
    for shop in Shop::each() {
        let server = shop.server();
        let id = server.create(5).await;
        let seen = server.get(&product(id)).await;
        let imported = shop.file("products.csv", format!("id,price\n{id},2\n"));
        shop.import(&imported, &["--update"]);
        let change = |etag: String| {
            let request = server.request(Method::PATCH, &product(id));
            request
                .header("if-match", etag)
                .json(&json!({ "stock": 9 }))
        };
        let stale = server.send(change(seen.header("etag").to_owned())).await;
        assert_eq!(stale.status, 412);
        let current = server.send(change(stale.header("etag").to_owned())).await;
        assert_eq!(current.status, 200, "{:?}", current.body);
        assert_eq!(
            (&current.body["price"], &current.body["version"]),
            (&json!(2), &json!(3))
        );
        server.ledger(id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_imports_clients_and_buyers_write_the_same_products() {
    const IMPORTS: i64 = 10;
    const STOCK: i64 = 100_000;
    for shop in Shop::each() {
        let server = shop.server();
        let ids = [server.create(STOCK).await, server.create(STOCK).await];
        let done = AtomicBool::new(false);
        let bought = AtomicI64::new(0);
        let patched = AtomicI64::new(0);
        let buy = async || {
            while !done.load(Ordering::Relaxed) {
                for id in ids {
                    let response = server.buy(id, 1).await;
                    assert_eq!(response.status, 201, "{:?}", response.body);
                    bought.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let patch = async || {
            while !done.load(Ordering::Relaxed) {
                for id in ids {
                    let response = server.patch(id, json!({ "description": "patched" })).await;
                    assert_eq!(response.status, 200, "{:?}", response.body);
                    patched.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let import = async || {
            for number in 1..=IMPORTS {
                let [first, second] = ids;
                let text =
                    format!("id,name,price\n{second},Cup,{number}\n,New,1\n{first},Mug,{number}\n");
                let file = shop.file("products.csv", text);
                let mut command = shop.command("import", &file, &["--update"]);
                let running = tokio::task::spawn_blocking(move || command.output().unwrap());
                let output = running.await.unwrap();
                assert!(output.status.success(), "{}", texts(&output).1);
                // Clients write between the imports too.
                let (bought_before, patched_before) = (
                    bought.load(Ordering::Relaxed),
                    patched.load(Ordering::Relaxed),
                );
                eventually("clients write", async || {
                    let has_written = bought.load(Ordering::Relaxed) > bought_before
                        && patched.load(Ordering::Relaxed) > patched_before;
                    has_written.then_some(())
                })
                .await;
            }
            done.store(true, Ordering::Relaxed);
        };
        tokio::join!(buy(), buy(), patch(), import());
        let mut entries = 0;
        let mut stock = 0;
        for id in ids {
            let ledger = server.ledger(id).await;
            entries += i64::try_from(ledger.len()).unwrap();
            let of_imports = ledger
                .iter()
                .filter(|entry| entry["request"].as_str().unwrap().starts_with("import-"));
            assert_eq!(of_imports.count(), usize::try_from(IMPORTS).unwrap());
            stock += server.stock(id).await;
            let now = server.get(&product(id)).await.body;
            assert_eq!(now["price"], IMPORTS);
            assert_eq!(now["description"], "patched");
        }
        let (bought, patched) = (bought.into_inner(), patched.into_inner());
        assert_eq!(stock, 2 * STOCK - bought);
        assert_eq!(entries, 2 + bought + patched + 2 * IMPORTS);
        assert_eq!(
            server.get("/api/products/").await.body["count"],
            2 + IMPORTS
        );
        server.process.terminate();
        assert!(server.process.wait(PATIENCE).unwrap().success());
    }
}
