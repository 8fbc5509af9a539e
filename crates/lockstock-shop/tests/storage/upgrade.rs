//! Databases of earlier versions are opened, migrated and used.
//!
//! `databases/` holds a dump of a database of each kind that an earlier version made, with
//! the checksums that it recorded: a changed migration file, or a changed way to compute its
//! checksum, fails here.

use std::path::Path;
use std::sync::Arc;

use lockstock_shop::storage::{self, OrderKind, OrderOutcome, Storage};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use uuid::{Uuid, uuid};

use crate::{
    OPTIONS, POSTGRES, audited, bought, created, fenced, found, mug, order, purchase, stock,
};

const SQLITE_DUMP: &str = include_str!("databases/sqlite.sql");
const POSTGRES_DUMP: &str = include_str!("databases/postgres.sql");

const SQLITE_MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/sqlite/0001_products.sql"),
    include_str!("../../migrations/sqlite/0002_sales.sql"),
];
const POSTGRES_MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/postgres/0001_products.sql"),
    include_str!("../../migrations/postgres/0002_sales.sql"),
    include_str!("../../migrations/postgres/0003_fewer_indexes.sql"),
];

#[tokio::test]
async fn a_sqlite_database_of_an_earlier_version_is_opened_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    run(&mut connect(&old).await, SQLITE_DUMP).await;
    let storage = open(&old).await;
    let reservation = uuid!("7671023d-c21b-41ba-8e23-6d9e3a2d40b9");
    use_it(&*storage, reservation).await;
    storage.close().await;

    open(&new).await.close().await;
    assert_eq!(schema(&old).await, schema(&new).await);
    assert_eq!(recorded(&old).await, recorded(&new).await);
}

#[tokio::test]
async fn a_postgres_database_of_an_earlier_version_is_opened_and_used() {
    let old = POSTGRES.create_database("old");
    POSTGRES.psql("old", POSTGRES_DUMP);
    let storage = storage::open(&old, OPTIONS).await.unwrap();
    let reservation = uuid!("d11629c6-af4f-473c-a19d-cb9629839556");
    use_it(&*storage, reservation).await;
    storage.close().await;

    let new = POSTGRES.create_database("new");
    storage::open(&new, OPTIONS).await.unwrap().close().await;
    let recorded = "SELECT version, description, success, checksum
        FROM _sqlx_migrations ORDER BY version";
    assert_eq!(
        POSTGRES.psql("old", recorded),
        POSTGRES.psql("new", recorded)
    );
}

#[tokio::test]
async fn a_database_of_any_earlier_version_is_migrated_on() {
    let folder = tempfile::tempdir().unwrap();
    for applied in 1..=SQLITE_MIGRATIONS.len() {
        let file = folder.path().join(applied.to_string());
        let text = earlier(SQLITE_DUMP, &SQLITE_MIGRATIONS, applied);
        run(&mut connect(&file).await, &text).await;
        let storage = open(&file).await;
        assert_opened(&*storage, applied).await;
        storage.close().await;
    }
    for applied in 1..=POSTGRES_MIGRATIONS.len() {
        let name = format!("earlier{applied}");
        let url = POSTGRES.create_database(&name);
        POSTGRES.psql(
            &name,
            &earlier(POSTGRES_DUMP, &POSTGRES_MIGRATIONS, applied),
        );
        let storage = storage::open(&url, OPTIONS).await.unwrap();
        assert_opened(&*storage, applied).await;
        storage.close().await;
    }
}

#[tokio::test]
async fn a_database_with_an_unknown_checksum_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop");
    let mut connection = connect(&file).await;
    run(&mut connection, SQLITE_DUMP).await;
    let forged = "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1";
    run(&mut connection, forged).await;
    let url = format!("sqlite://{}", file.display());
    let Err(error) = storage::open(&url, OPTIONS).await else {
        panic!("opened")
    };
    assert!(error.to_string().contains("migration 1 "), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_not_opened() {
    const NEWER: &str = "INSERT INTO _sqlx_migrations
        (version, description, success, checksum, execution_time) VALUES (99, 'newer', true, ";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop");
    open(&file).await.close().await;
    run(&mut connect(&file).await, &format!("{NEWER} x'00', 0)")).await;
    let postgres = POSTGRES.create_database("newer");
    storage::open(&postgres, OPTIONS)
        .await
        .unwrap()
        .close()
        .await;
    POSTGRES.psql("newer", &format!("{NEWER} '00', 0)"));
    for url in [format!("sqlite://{}", file.display()), postgres] {
        let Err(error) = storage::open(&url, OPTIONS).await else {
            panic!("opened")
        };
        let error = error.to_string();
        assert!(error.contains("belongs to a newer Lockstock"), "{error}");
    }
}

/// The tables after the first `applied` migrations, recorded as `dump` has them, and one
/// product.
fn earlier(dump: &str, migrations: &[&str], applied: usize) -> String {
    let create = dump.split_once("CREATE TABLE").unwrap().1;
    let create = create.split_once(';').unwrap().0;
    let recorded = dump.lines().filter(|line| {
        line.starts_with("INSERT INTO _sqlx_migrations")
            || line.starts_with("INSERT INTO public._sqlx_migrations")
    });
    let recorded = recorded.take(applied).collect::<Vec<_>>();
    assert_eq!(recorded.len(), applied);
    let product = "INSERT INTO products
        (name, description, price, stock, version, fence, created_at, updated_at)
        VALUES ('Enamel mug', '', 12000, 7, 3, 9,
            '2026-11-26T14:32:21.066738+00:00', '2026-11-26T14:32:21.115966+00:00');";
    let (first, later) = migrations[..applied].split_first().unwrap();
    let (recorded, later) = (recorded.join("\n"), later.join("\n"));
    format!("CREATE TABLE{create};\n{recorded}\n{first}\n{product}\n{later}")
}

/// Checks the one product of [`earlier`].
async fn assert_opened(storage: &dyn Storage, applied: usize) {
    let product = found(storage, 1).await;
    assert_eq!((product.stock, product.version), (7, 3), "{applied}");
    let entry = bought(storage.submit_order(order(1, purchase(2))).await);
    assert_eq!((entry.stock_after, entry.version), (5, 4), "{applied}");
    created(storage, mug(1)).await;
}

/// Uses the database of a dump in every way that reads an earlier row.
async fn use_it(storage: &dyn Storage, reservation: Uuid) {
    let mug = found(storage, 1).await;
    assert_eq!((mug.stock, mug.version, mug.price), (7, 3, 12_000));
    assert_eq!(audited(storage, 1).await.len(), 3);
    assert_eq!(audited(storage, 2).await.len(), 1);
    let (held, _) = storage.reservation(reservation).await.unwrap().unwrap();
    assert_eq!((held.product, held.quantity), (1, 1));
    let cancelled = storage
        .submit_order(order(1, OrderKind::Cancel { reservation }))
        .await
        .unwrap();
    assert!(
        matches!(cancelled, OrderOutcome::Released(_)),
        "{cancelled:?}"
    );
    let entry = bought(storage.submit_order(order(1, purchase(1))).await);
    assert_eq!((entry.stock_after, entry.version), (6, 4));
    storage
        .update(2, stock(1), fenced(1), Default::default())
        .await
        .unwrap();
    audited(storage, 1).await;
    audited(storage, 2).await;
    assert_eq!(created(storage, crate::mug(1)).await.id, 3);
}

async fn open(file: &Path) -> Arc<dyn Storage> {
    let url = format!("sqlite://{}", file.display());
    storage::open(&url, OPTIONS).await.unwrap()
}

async fn connect(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file);
    options.create_if_missing(true).connect().await.unwrap()
}

async fn run(connection: &mut SqliteConnection, text: &str) {
    let statements = sqlx::raw_sql(AssertSqlSafe(text.to_owned()));
    statements.execute(connection).await.unwrap();
}

async fn schema(file: &Path) -> Vec<(String, String)> {
    sqlx::query_as("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .fetch_all(&mut connect(file).await)
        .await
        .unwrap()
}

async fn recorded(file: &Path) -> Vec<(i64, String, bool, Vec<u8>)> {
    sqlx::query_as(
        "SELECT version, description, success, checksum FROM _sqlx_migrations ORDER BY version",
    )
    .fetch_all(&mut connect(file).await)
    .await
    .unwrap()
}
