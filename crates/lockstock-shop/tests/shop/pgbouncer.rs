//! PgBouncer between the server and Postgres.

use std::path::Path;
use std::process::Command;

use lockstock_testkit::{Postgres, Process, free_port};

use crate::harness::{Server, binary, eventually, product};

/// Starts PgBouncer. Returns `None`, and prints why, if it is not installed.
pub(crate) fn pgbouncer(postgres: &Postgres, folder: &Path, mode: &str) -> Option<(Process, u16)> {
    let port = free_port();
    let file = folder.join(format!("{mode}.ini"));
    let settings = format!(
        "[databases]\nshop = host=127.0.0.1 port={} user=postgres\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = any\npool_mode = {mode}\n",
        postgres.address().port()
    );
    std::fs::write(&file, settings).unwrap();
    // Debian's place for it is not on the PATH of ordinary users.
    let debian = Path::new("/usr/sbin/pgbouncer");
    let program = if debian.is_file() {
        debian
    } else {
        Path::new("pgbouncer")
    };
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        // It refuses to run as root.
        std::os::unix::fs::chown(folder, Some(65_534), None).unwrap();
        command.args(["-u", "nobody"]);
    }
    command.arg("-q").arg(file);
    match Process::spawn(command) {
        Ok(process) => Some((process, port)),
        Err(error) => {
            eprintln!("skipped: cannot run pgbouncer: {error}");
            None
        }
    }
}

pub(crate) async fn listens(port: u16) {
    eventually("pgbouncer listens", async || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    })
    .await;
}

#[tokio::test]
async fn pgbouncer_works_in_session_mode_and_is_refused_in_transaction_mode() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    postgres.create_database("shop");
    let Some((_session, port)) = pgbouncer(&postgres, folder.path(), "session") else {
        return;
    };
    listens(port).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/shop");
    let server = Server::on("memory://", &url).start();
    let id = server.create(10).await;
    assert_eq!(server.get(&product(id)).await.status, 200);
    assert_eq!(
        server
            .patch(id, serde_json::json!({ "stock": 9 }))
            .await
            .status,
        200
    );
    assert_eq!(server.get("/readyz").await.status, 200);

    let (_transaction, port) = pgbouncer(&postgres, folder.path(), "transaction").unwrap();
    listens(port).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/shop");
    let refused = binary()
        .args(["--listen", "127.0.0.1:0", "--database", &url])
        .output()
        .unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("use pool_mode = session"), "{error}");
}
