//! A private PostgreSQL cluster.

use std::fs::{File, Permissions, set_permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::port::free_port;
use crate::process::{Process, describe, poll};
use crate::scratch::Scratch;
use crate::tls::Certificate;

/// Includes recovery after a crash.
const START: Duration = Duration::from_secs(60);
const REPLY: Duration = Duration::from_secs(5);
/// Attempts to find a port: another process may take one before the server
/// does.
const PORTS: usize = 10;

/// A PostgreSQL cluster owned by this value: private port, private folder,
/// killed and removed on drop.
///
/// Writes are as durable as in production (`fsync` is on): committed data
/// survives [`kill`](Postgres::kill) and [`restart`](Postgres::restart).
/// Starting takes about a second, so tests of one binary may share a cluster in
/// a `static` and take a database each. Encoding UTF8, locale C.UTF-8, 200
/// connections, one superuser `postgres` that needs no password.
///
/// Under root it runs as the user `postgres`, else `nobody`: PostgreSQL does
/// not run as root.
///
/// ```
/// use lockstock_testkit::Postgres;
///
/// let postgres = Postgres::start();
/// let url = postgres.create_database("shop");
/// assert!(url.starts_with("postgres://postgres@127.0.0.1:"));
/// postgres.psql("shop", "CREATE TABLE product AS SELECT 1 AS stock");
/// postgres.kill();
/// postgres.restart();
/// assert_eq!(postgres.psql("shop", "SELECT stock FROM product"), "1");
/// ```
pub struct Postgres {
    // Before the folder: fields are dropped in order.
    server: Mutex<Process>,
    cluster: Cluster,
    port: u16,
}

impl Postgres {
    /// Creates a cluster, starts it, and waits until it is ready.
    pub fn start() -> Postgres {
        Postgres::start_with(&[])
    }

    /// As [`start`](Postgres::start), with further arguments of `postgres`.
    ///
    /// ```
    /// # use lockstock_testkit::Postgres;
    /// let postgres = Postgres::start_with(&["-c", "deadlock_timeout=100ms"]);
    /// assert_eq!(postgres.psql("postgres", "SHOW deadlock_timeout"), "100ms");
    /// ```
    pub fn start_with(arguments: &[&str]) -> Postgres {
        Postgres::run(Cluster::create(arguments))
    }

    /// Starts a standby of this server: a copy that follows it and is read-only until it is
    /// [promoted](Postgres::promote).
    ///
    /// ```
    /// # use lockstock_testkit::Postgres;
    /// let primary = Postgres::start();
    /// let standby = primary.start_standby();
    /// assert_eq!(standby.psql("postgres", "SELECT pg_is_in_recovery()"), "t");
    /// primary.kill();
    /// standby.promote();
    /// assert_eq!(standby.psql("postgres", "SELECT pg_is_in_recovery()"), "f");
    /// ```
    pub fn start_standby(&self) -> Postgres {
        Postgres::run(Cluster::copy(self))
    }

    /// Makes a standby a server of its own, and waits until it accepts writes.
    pub fn promote(&self) {
        assert_eq!(self.psql("postgres", "SELECT pg_promote()"), "t");
    }

    fn run(cluster: Cluster) -> Postgres {
        for _ in 0..PORTS {
            let port = free_port();
            let server = cluster.spawn(port);
            if cluster.ready(&server, port) {
                return Postgres {
                    server: Mutex::new(server),
                    cluster,
                    port,
                };
            }
        }
        panic!("postgres found every one of {PORTS} ports taken");
    }

    /// Creates a database and returns its URL,
    /// `postgres://postgres@127.0.0.1:PORT/NAME`.
    ///
    /// `name`: lower-case letters, digits and underscores.
    pub fn create_database(&self, name: &str) -> String {
        let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        assert!(name.bytes().all(plain), "not a database name: {name:?}");
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\""));
        format!("postgres://postgres@{}/{name}", self.address())
    }

    /// Makes the server speak TLS with `certificate` to clients that ask for it. Other clients are
    /// served as before.
    ///
    /// ```
    /// # use lockstock_testkit::{Authority, Postgres};
    /// let (postgres, authority) = (Postgres::start(), Authority::new());
    /// postgres.serve_tls(&authority.issue(&["127.0.0.1"]));
    /// assert_eq!(postgres.psql("postgres", "SHOW ssl"), "on");
    /// ```
    pub fn serve_tls(&self, certificate: &Certificate) {
        let files = [
            ("server.crt", certificate.file()),
            ("server.key", certificate.key_file()),
        ];
        for (name, source) in files {
            let file = self.cluster.data().join(name);
            let user = self.cluster.user.as_ref();
            std::fs::copy(source, &file)
                .and_then(|_| set_permissions(&file, Permissions::from_mode(0o600)))
                .and_then(|()| chown(&file, user.map(|it| it.uid), user.map(|it| it.gid)))
                .unwrap_or_else(|error| panic!("cannot write {file:?}: {error}"));
        }
        self.psql("postgres", "ALTER SYSTEM SET ssl = on");
        self.psql("postgres", "SELECT pg_reload_conf()");
        let is_on = || (self.psql("postgres", "SHOW ssl") == "on").then_some(());
        assert!(poll(START, is_on).is_some(), "{}", self.log());
    }

    /// Returns the address of the server, which a restart does not change.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the process id of the postmaster, which a restart changes.
    pub fn id(&self) -> u32 {
        self.server().id()
    }

    /// Sends SIGKILL to the postmaster and every backend at once. The cluster
    /// stays down, and its folder is as a crash leaves it.
    pub fn kill(&self) {
        self.server().kill();
    }

    /// Starts again on the same port and recovers. If it still runs, it is
    /// killed first.
    pub fn restart(&self) {
        let mut server = self.server();
        server.kill();
        *server = self.cluster.spawn(self.port);
        if !self.cluster.ready(&server, self.port) {
            panic!("port {} was taken while postgres was down", self.port);
        }
    }

    /// Sends SIGSTOP to the postmaster and every backend: connections stay
    /// open, new ones are accepted, and no request is answered.
    pub fn pause(&self) {
        self.server().pause();
    }

    /// Sends SIGCONT: pending requests are answered.
    pub fn resume(&self) {
        self.server().resume();
    }

    /// Runs SQL with `psql` and returns its output: one row per line, columns
    /// separated by `|`, no header. Several statements are one transaction.
    ///
    /// Panics with the message of psql if the SQL fails.
    ///
    /// ```
    /// # use lockstock_testkit::Postgres;
    /// let postgres = Postgres::start();
    /// assert_eq!(postgres.psql("postgres", "VALUES (1, 'a'), (2, 'b')"), "1|a\n2|b");
    /// ```
    #[track_caller]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql)
            .unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// Returns a client program of PostgreSQL, such as `pg_dump`, of the version of this
    /// server. It is not connected to it.
    ///
    /// ```
    /// # use lockstock_testkit::Postgres;
    /// let postgres = Postgres::start();
    /// let url = postgres.create_database("shop");
    /// let dump = postgres.program("pg_dump").arg(url).output().unwrap();
    /// assert!(dump.status.success());
    /// ```
    pub fn program(&self, name: &str) -> Command {
        program(&self.cluster.programs, name)
    }

    /// As [`psql`](Postgres::psql), but returns a failure: what psql printed
    /// to standard error.
    ///
    /// ```
    /// # use lockstock_testkit::Postgres;
    /// # let postgres = Postgres::start();
    /// let error = postgres.try_psql("postgres", "SELECT 1/0").unwrap_err();
    /// assert!(error.contains("division by zero"));
    /// ```
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = program(&self.cluster.programs, "psql");
        command
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .args(["--no-password", "--set", "ON_ERROR_STOP=1"])
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--username", "postgres", "--dbname", database])
            .args(["--command", sql])
            .env("PGCONNECT_TIMEOUT", REPLY.as_secs().to_string());
        let output = run(&mut command);
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Returns the log of the server, over all restarts.
    pub fn log(&self) -> String {
        self.cluster.log()
    }

    fn server(&self) -> MutexGuard<'_, Process> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files of a cluster, and the user that runs it.
struct Cluster {
    folder: Scratch,
    programs: PathBuf,
    user: Option<User>,
    arguments: Vec<String>,
}

impl Cluster {
    fn create(arguments: &[&str]) -> Cluster {
        let cluster = Cluster::empty(arguments.iter().map(|&text| text.into()).collect());
        let mut initdb = cluster.command("initdb");
        initdb
            .arg("--pgdata")
            .arg(cluster.data())
            .args(["--username", "postgres", "--auth", "trust"])
            // Folds the case of all letters; C folds ASCII only.
            .args(["--encoding", "UTF8", "--locale", "C.UTF-8"])
            // The cluster need not survive the machine before its first
            // commit.
            .arg("--no-sync");
        cluster.fill(initdb);
        cluster
    }

    /// Copies a running server, as a standby of it.
    fn copy(primary: &Postgres) -> Cluster {
        let cluster = Cluster::empty(primary.cluster.arguments.clone());
        let mut backup = cluster.command("pg_basebackup");
        backup
            .arg("--pgdata")
            .arg(cluster.data())
            .args(["--host", "127.0.0.1", "--port", &primary.port.to_string()])
            .args(["--username", "postgres", "--no-password"])
            .args(["--write-recovery-conf", "--checkpoint", "fast", "--no-sync"]);
        cluster.fill(backup);
        cluster
    }

    fn empty(arguments: Vec<String>) -> Cluster {
        let folder = Scratch::new("postgres");
        let user = User::instead_of_root();
        if let Some(user) = &user {
            chown(folder.path(), Some(user.uid), Some(user.gid))
                .unwrap_or_else(|error| panic!("cannot give a folder away: {error}"));
        }
        Cluster {
            folder,
            programs: programs(),
            user,
            arguments,
        }
    }

    /// Runs the program that creates the files.
    fn fill(&self, mut command: Command) {
        let output = run(&mut command);
        if !output.status.success() {
            let name = Path::new(command.get_program()).display();
            panic!(
                "{name} failed:\n{}{}",
                text(&output.stdout),
                text(&output.stderr)
            );
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        text(&std::fs::read(self.folder.path().join("log")).unwrap_or_default())
    }

    /// Returns a PostgreSQL program that runs as the right user.
    fn command(&self, name: &str) -> Command {
        let mut command = program(&self.programs, name);
        // That user may have no access to the current folder.
        command.current_dir(self.folder.path());
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    fn spawn(&self, port: u16) -> Process {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .and_then(|log| Ok((log.try_clone()?, log)));
        let (stdout, stderr) = log.expect("a log file in a private folder");
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .arg("-c")
            .arg(setting("unix_socket_directories", self.folder.path()))
            .args(["-c", "max_connections=200"])
            // In the data folder, so that it goes with it: a killed server
            // leaves files in /dev/shm, which is small in containers.
            .args(["-c", "dynamic_shared_memory_type=mmap"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        Process::spawn(command).unwrap_or_else(|error| panic!("cannot start postgres: {error}"))
    }

    /// Waits until this server answers, on its socket in this folder. Returns
    /// false if another process has the port.
    fn ready(&self, server: &Process, port: u16) -> bool {
        let socket = self.folder.path().join(format!(".s.PGSQL.{port}"));
        let outcome = poll(START, || {
            if let Some(status) = server.exited() {
                return Some(Err(status));
            }
            accepts(&socket).then_some(Ok(()))
        });
        match outcome {
            Some(Ok(())) => {
                self.forget_shared_memory();
                true
            }
            Some(Err(_)) if self.log().contains("could not bind") => false,
            Some(Err(status)) => panic!("postgres {}:\n{}", describe(status), self.log()),
            None => panic!("postgres not ready after {START:?}:\n{}", self.log()),
        }
    }

    /// Marks the server's System V segment to go with its last process.
    ///
    /// PostgreSQL removes it only on an orderly shutdown, and tests kill their
    /// servers: each would leave one of the 4096 segments of a machine.
    /// Processes that have the segment keep it. It also guards against a
    /// second start on the same folder, which `Process::kill` rules out.
    fn forget_shared_memory(&self) {
        let lock = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        // Line 7: key and id.
        let id = lock
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        if let Some(id) = id {
            // SAFETY: IPC_RMID reads no buffer.
            unsafe {
                libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
            }
        }
    }
}

/// An unprivileged user, from the users of this machine.
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// Returns the user that runs PostgreSQL if this process is root.
    fn instead_of_root() -> Option<User> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let find = |name: &str| {
            let mut fields = users
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?
                .split(':')
                .skip(1);
            let uid = fields.next()?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(User { uid, gid })
        };
        let user = find("postgres").or_else(|| find("nobody"));
        Some(user.expect("root needs a user `postgres` or `nobody` to run PostgreSQL as"))
    }
}

/// The folder of `initdb` and `postgres`.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("LOCKSTOCK_POSTGRES_BIN") {
        return folder.into();
    }
    let complete = |folder: &PathBuf| {
        ["initdb", "pg_basebackup", "postgres", "psql"]
            .iter()
            .all(|name| folder.join(name).is_file())
    };
    // The folder of Debian's packages, which is not on the PATH.
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path(),
            ))
        })
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, folder)| complete(folder))
        .max();
    if let Some((_, folder)) = debian {
        return folder;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(complete).expect(
        "PostgreSQL's initdb, pg_basebackup, postgres and psql not found. Run `./dev setup` to install them",
    )
}

/// Returns a PostgreSQL program, without the settings of the environment for
/// another server.
fn program(folder: &Path, name: &str) -> Command {
    let mut command = Command::new(folder.join(name));
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("PG")) {
            command.env_remove(key);
        }
    }
    // The tests read the messages.
    command.env("LC_ALL", "C.UTF-8");
    command
}

fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            let name = Path::new(command.get_program()).display();
            panic!("cannot run {name}: {error}. Run `./dev setup` to install it")
        })
}

fn setting(name: &str, value: &Path) -> String {
    format!("{name}={}", value.display())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Returns whether the server behind a socket accepts clients: it answers the
/// startup packet with `R`, and with `E` while it is starting.
fn accepts(socket: &Path) -> bool {
    const PROTOCOL: u32 = 3 << 16;
    let ask = || {
        let mut packet = vec![0; 4];
        packet.extend(PROTOCOL.to_be_bytes());
        packet.extend(b"user\0postgres\0database\0postgres\0\0");
        let length = packet.len() as u32;
        packet[..4].copy_from_slice(&length.to_be_bytes());

        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(REPLY))?;
        stream.write_all(&packet)?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        std::io::Result::Ok(kind[0] == b'R')
    };
    ask().unwrap_or(false)
}
