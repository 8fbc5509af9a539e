//! TLS to Postgres: `sslmode=verify-full` connects to no other server than the one that it names.

use lockstock_testkit::{Authority, Postgres};

use crate::harness::{Server, binary};

/// Returns the URL of a database with `options`.
fn url(postgres: &Postgres, host: &str, options: &str) -> String {
    let port = postgres.address().port();
    format!("postgres://postgres:open-sesame@{host}:{port}/postgres?{options}")
}

/// Returns what a server writes that does not start.
fn refused(url: &str) -> String {
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--database", url]);
    let output = command.args(["--database-timeout", "2s"]).output().unwrap();
    assert!(!output.status.success(), "{url}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!error.contains("open-sesame"), "{error}");
    error
}

#[tokio::test]
async fn postgres_is_verified_and_no_connection_is_downgraded() {
    let (authority, other) = (Authority::new(), Authority::new());
    let postgres = Postgres::start();
    let trusting = |authority: &Authority| {
        let file = authority.file().display();
        format!("sslmode=verify-full&sslrootcert={file}")
    };
    // A server without TLS: not even a client that verifies nothing falls back.
    for options in [
        "sslmode=require",
        "sslmode=verify-ca",
        &trusting(&authority),
    ] {
        let error = refused(&url(&postgres, "localhost", options));
        assert!(error.contains("TLS"), "{options}: {error}");
    }

    postgres.serve_tls(&authority.issue(&["localhost"]));
    let database = url(&postgres, "localhost", &trusting(&authority));
    let server = Server::on("memory://", &database).start();
    let id = server.create(3).await;
    assert_eq!(server.stock(id).await, 3);
    let encrypted = "SELECT count(*) > 0 AND bool_and(ssl) FROM pg_stat_ssl \
        JOIN pg_stat_activity USING (pid) WHERE application_name <> 'psql' \
        AND backend_type = 'client backend'";
    assert_eq!(postgres.psql("postgres", encrypted), "t");
    for (case, url) in [
        (
            "another authority",
            url(&postgres, "localhost", &trusting(&other)),
        ),
        (
            "another name",
            url(&postgres, "127.0.0.1", &trusting(&authority)),
        ),
        (
            "the authorities of the system",
            url(&postgres, "localhost", "sslmode=verify-full"),
        ),
    ] {
        let error = refused(&url);
        assert!(error.contains("certificate"), "{case}: {error}");
    }

    let expired = Postgres::start();
    expired.serve_tls(&authority.issue_expired(&["localhost"]));
    let error = refused(&url(&expired, "localhost", &trusting(&authority)));
    assert!(error.contains("certificate"), "{error}");
}
