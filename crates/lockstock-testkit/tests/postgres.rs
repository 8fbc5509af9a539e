//! `Postgres` against the real `postgres`.

use lockstock_testkit::Postgres;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::time::Duration;

/// Shared by the tests that do not break it, as other crates do.
static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);

/// `S`: the server speaks TLS, `N`: it does not. Any answer will do here.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

#[test]
fn is_durable_and_roomy_by_default() {
    let show = |name: &str| SHARED.psql("postgres", &format!("SHOW {name}"));
    assert_eq!(show("fsync"), "on");
    assert_eq!(show("synchronous_commit"), "on");
    assert_eq!(show("max_connections"), "200");
    assert_eq!(show("server_encoding"), "UTF8");
    assert_eq!(SHARED.psql("postgres", "SELECT upper('é')"), "É");
}

#[test]
fn create_database_gives_its_url() {
    let url = SHARED.create_database("shop_1");
    assert_eq!(
        url,
        format!("postgres://postgres@{}/shop_1", SHARED.address())
    );
    SHARED.psql(
        "shop_1",
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)",
    );
    assert_eq!(
        SHARED.psql("shop_1", "SELECT n, n * n FROM t ORDER BY n"),
        "1|1\n2|4"
    );
    // psql takes a URL for a database name.
    assert_eq!(SHARED.psql(&url, "SELECT current_database()"), "shop_1");
}

#[test]
#[should_panic(expected = "not a database name")]
fn create_database_rejects_names_that_need_escaping() {
    SHARED.create_database("shop\"; --");
}

#[test]
#[should_panic(expected = "relation \"nowhere\" does not exist")]
fn psql_panics_with_the_message_of_the_server() {
    SHARED.psql("postgres", "SELECT * FROM nowhere");
}

#[test]
fn try_psql_gives_the_failure() {
    let error = SHARED
        .try_psql("postgres", "SELECT 1; SELECT 1/0")
        .unwrap_err();
    assert!(error.contains("division by zero"), "{error}");
}

#[test]
fn start_with_takes_settings() {
    let postgres = Postgres::start_with(&["-c", "lock_timeout=1234ms"]);
    assert_eq!(postgres.psql("postgres", "SHOW lock_timeout"), "1234ms");
    postgres.restart();
    assert_eq!(postgres.psql("postgres", "SHOW lock_timeout"), "1234ms");
}

#[test]
fn killed_it_stays_down_and_restarted_it_has_what_was_committed() {
    let postgres = Postgres::start();
    let (address, id) = (postgres.address(), postgres.id());
    postgres.create_database("shop");
    postgres.psql("shop", "CREATE TABLE t (n int); INSERT INTO t VALUES (7)");
    let backends = "SELECT pid FROM pg_stat_activity";
    let pids = postgres.psql("postgres", backends);
    let mut client = TcpStream::connect(address).unwrap();

    postgres.kill();
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(
        !matches!(client.read(&mut [0]), Ok(1..)),
        "a dead server answered"
    );
    for pid in pids.lines() {
        let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        assert!(
            !cmdline.is_ok_and(|text| text.contains("postgres")),
            "{pid} lives"
        );
    }

    postgres.restart();
    assert_eq!(postgres.address(), address);
    assert_ne!(postgres.id(), id);
    assert_eq!(postgres.psql("shop", "SELECT n FROM t"), "7");
    assert!(postgres.log().contains("automatic recovery in progress"));

    // One that still runs is killed first.
    postgres.restart();
    assert_eq!(postgres.psql("shop", "SELECT n FROM t"), "7");
}

#[test]
fn kill_and_pause_reach_backends_in_the_middle_of_a_statement() {
    let postgres = Postgres::start();
    let busy = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'";
    std::thread::scope(|scope| {
        let endless = "DO 'BEGIN LOOP END LOOP; END'";
        let client = scope.spawn(|| postgres.try_psql("postgres", endless));
        wait_until(|| !postgres.psql("postgres", busy).is_empty());
        let backend = postgres.psql("postgres", busy);
        let stat = || std::fs::read_to_string(format!("/proc/{backend}/stat"));

        postgres.pause();
        assert!(stat().unwrap().contains(") T "), "the backend runs on");
        postgres.resume();
        wait_until(|| stat().unwrap().contains(") R "));

        postgres.kill();
        assert!(
            stat().is_err() || stat().unwrap().contains(") Z "),
            "the backend lives on"
        );
        let error = client.join().unwrap().unwrap_err();
        assert!(error.contains("server closed the connection"), "{error}");
    });
}

#[test]
fn paused_it_accepts_and_is_silent_and_resumed_it_answers() {
    let postgres = Postgres::start();
    postgres.pause();
    let mut client = TcpStream::connect(postgres.address()).expect("the kernel accepts");
    client.write_all(&TLS_REQUEST).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let silence = client.read(&mut [0]).unwrap_err();
    assert!(matches!(
        silence.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut
    ));

    postgres.resume();
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn two_clusters_are_independent() {
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(Postgres::start);
        (one.join().unwrap(), Postgres::start())
    });
    assert_ne!(one.address(), other.address());
    one.create_database("shop");
    other.create_database("shop");
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it never came true");
        std::thread::sleep(Duration::from_millis(10));
    }
}
