//! A private `redis-server`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::port::free_port;
use crate::process::{Process, describe, poll};
use crate::scratch::Scratch;
use crate::tls::Certificate;

const START: Duration = Duration::from_secs(30);
const REPLY: Duration = Duration::from_secs(10);
/// Attempts to find a port: another process may take one before the server
/// does.
const PORTS: usize = 10;

/// The rights that a user for locks and values needs.
const DOCUMENTED_RIGHTS: &str = include_str!("../../../docs/acl.txt");

/// A `redis-server` owned by this value: private port, private folder, no data
/// on disk, killed on drop.
///
/// ```
/// use lockstock_testkit::Redis;
///
/// let redis = Redis::start();
/// assert_eq!(redis.command(&["SET", "stock", "1"]), Ok("OK".into()));
/// redis.kill();
/// assert!(redis.command(&["GET", "stock"]).is_err());
/// redis.restart();
/// assert_eq!(redis.command(&["GET", "stock"]), Ok("(nil)".into()));
/// ```
pub struct Redis {
    // Before the folder: fields are dropped in order.
    server: Mutex<Process>,
    paused: AtomicBool,
    program: OsString,
    arguments: Vec<String>,
    password: Option<String>,
    port: u16,
    tls_port: Option<u16>,
    folder: Scratch,
}

impl Redis {
    /// Starts a server and waits until it is ready.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// As [`start`](Redis::start), with further arguments of `redis-server`.
    ///
    /// ```
    /// # use lockstock_testkit::Redis;
    /// let redis = Redis::start_with(&["--requirepass", "open sesame"]);
    /// // `command` knows the password; `url` does not give it away.
    /// assert_eq!(redis.command(&["PING"]), Ok("PONG".into()));
    /// ```
    pub fn start_with(arguments: &[&str]) -> Redis {
        Redis::launch(program(), arguments, None)
    }

    /// Starts a server with TLS and `certificate`.
    ///
    /// [`url`](Redis::url) and [`tls_address`](Redis::tls_address) lead to the
    /// port that speaks nothing but TLS; [`address`](Redis::address) is one
    /// without, for [`command`](Redis::command).
    ///
    /// ```
    /// use lockstock_testkit::{Authority, Redis};
    ///
    /// let authority = Authority::new();
    /// let redis = Redis::start_tls(&authority.issue(&["localhost", "127.0.0.1"]));
    /// assert!(redis.url().starts_with("rediss://localhost:"));
    /// // A client has to trust:
    /// assert!(authority.file().exists());
    /// ```
    pub fn start_tls(certificate: &Certificate) -> Redis {
        Redis::start_tls_with(certificate, &[])
    }

    /// As [`start_tls`](Redis::start_tls), with further arguments of `redis-server`.
    pub fn start_tls_with(certificate: &Certificate, arguments: &[&str]) -> Redis {
        Redis::launch(program(), arguments, Some(certificate))
    }

    /// As [`start`](Redis::start), with the server of Valkey. If it is not
    /// installed, prints a line to standard error and returns `None`.
    ///
    /// ```
    /// # use lockstock_testkit::Redis;
    /// let Some(valkey) = Redis::start_valkey() else { return };
    /// let server = valkey.command(&["INFO", "server"]).unwrap();
    /// assert!(server.contains("server_name:valkey"));
    /// ```
    pub fn start_valkey() -> Option<Redis> {
        const PROGRAM: &str = "valkey-server";
        let program =
            std::env::var_os("LOCKSTOCK_VALKEY_SERVER").unwrap_or_else(|| OsString::from(PROGRAM));
        match Command::new(&program).arg("--version").output() {
            Ok(_) => Some(Redis::launch(program, &[], None)),
            Err(error) => {
                eprintln!("NOT TESTED on Valkey: cannot start {program:?}: {error}");
                None
            }
        }
    }

    fn launch(program: OsString, arguments: &[&str], certificate: Option<&Certificate>) -> Redis {
        let mut arguments: Vec<String> = arguments.iter().map(|&text| text.into()).collect();
        let password = arguments
            .iter()
            .position(|text| text == "--requirepass")
            .and_then(|at| arguments.get(at + 1).cloned());
        if with_documented_rights() {
            let user = ["--user", "limited", "on", ">limited", "~*"];
            // No pattern of keys may follow that of all.
            let rights = DOCUMENTED_RIGHTS.split_whitespace();
            let rights = rights.filter(|right| !right.starts_with('~'));
            arguments.extend(user.into_iter().chain(rights).map(str::to_owned));
        }
        let tls_port = certificate.map(|certificate| {
            let port = free_port();
            arguments.extend(certificate.arguments(port));
            port
        });
        let folder = Scratch::new("redis");
        for _ in 0..PORTS {
            let port = free_port();
            let server = spawn(&program, &folder, port, &arguments);
            if ready(&server, port, password.as_deref(), &folder) {
                return Redis {
                    server: Mutex::new(server),
                    paused: AtomicBool::new(false),
                    program,
                    arguments,
                    password,
                    port,
                    tls_port,
                    folder,
                };
            }
        }
        panic!("redis-server found every one of {PORTS} ports taken");
    }

    /// `redis://127.0.0.1:PORT/0`, without a password even if there is one;
    /// `rediss://localhost:PORT/0` if the server speaks TLS.
    ///
    /// With `LOCKSTOCK_REDIS_ACL=1` in the environment it is the URL of a user that has
    /// the rights of `docs/acl.txt`, for all keys.
    pub fn url(&self) -> String {
        match self.password {
            None if with_documented_rights() => self.url_as("limited", "limited"),
            _ => self.url_without_user(),
        }
    }

    fn url_without_user(&self) -> String {
        match self.tls_port {
            Some(port) => format!("rediss://localhost:{port}/0"),
            None => format!("redis://{}/0", self.address()),
        }
    }

    /// Returns the URL for a user that `--user` or `ACL SETUSER` created. Name
    /// and password must need no escapes in a URL.
    ///
    /// ```
    /// # use lockstock_testkit::Redis;
    /// let redis = Redis::start_with(&["--user", "shop", "on", ">pw", "~*", "&*", "+@all"]);
    /// assert!(redis.url_as("shop", "pw").starts_with("redis://shop:pw@127.0.0.1:"));
    /// ```
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.url_without_user()
            .replacen("://", &format!("://{user}:{password}@"), 1)
    }

    /// Returns the address of the server, which a restart does not change.
    pub fn address(&self) -> SocketAddr {
        address(self.port)
    }

    /// Returns the address of the TLS port.
    ///
    /// Panics if the server has none.
    pub fn tls_address(&self) -> SocketAddr {
        address(self.tls_port.expect("a server started with start_tls"))
    }

    /// Returns the process id of the server, which a restart changes.
    pub fn id(&self) -> u32 {
        self.server().id()
    }

    /// Sends SIGKILL. The server stays down: connections are reset and new
    /// ones refused.
    pub fn kill(&self) {
        self.server().kill();
    }

    /// Starts again, empty, on the same port. If it still runs, it is killed
    /// first.
    pub fn restart(&self) {
        let mut server = self.server();
        server.kill();
        self.paused.store(false, Ordering::SeqCst);
        *server = spawn(&self.program, &self.folder, self.port, &self.arguments);
        let password = self.password.as_deref();
        if !ready(&server, self.port, password, &self.folder) {
            panic!("port {} was taken while redis-server was down", self.port);
        }
    }

    /// Sends SIGSTOP: connections stay open, new ones are accepted, and no
    /// request is answered.
    pub fn pause(&self) {
        self.server().pause();
        self.paused.store(true, Ordering::SeqCst);
    }

    /// Sends SIGCONT: pending requests are answered.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        self.server().resume();
    }

    /// Waits until `replica` has all current data. `WAIT` covers only the
    /// writes of its own connection.
    pub(crate) fn await_copied_to(&self, replica: &Redis) {
        let offset = |redis: &Redis, name| {
            let info = redis.command(&["INFO", "replication"]).ok()?;
            let offset = info.lines().find_map(|line| line.strip_prefix(name))?;
            offset.parse::<u64>().ok()
        };
        let written = offset(self, "master_repl_offset:").expect("a master that answers");
        let copied = poll(START, || {
            (offset(replica, "slave_repl_offset:")? >= written).then_some(())
        });
        assert!(copied.is_some(), "the replica never had it all");
    }

    /// Returns whether the server runs and is not paused.
    pub(crate) fn is_running(&self) -> bool {
        self.server().exited().is_none() && !self.paused.load(Ordering::SeqCst)
    }

    /// Sends one command on a connection of its own, for assertions.
    ///
    /// Returns the reply much as `redis-cli` prints it: a string unchanged, an
    /// integer in decimal, null as `(nil)`, an array with one element per
    /// line. `Err` is an error reply (`NOAUTH …`), or begins with
    /// `unreachable: ` if there was no reply within ten seconds.
    ///
    /// ```
    /// # use lockstock_testkit::Redis;
    /// let redis = Redis::start();
    /// assert_eq!(redis.command(&["INCR", "fence"]), Ok("1".into()));
    /// assert_eq!(redis.command(&["PTTL", "fence"]), Ok("-1".into()));
    /// assert!(redis.command(&["LPUSH", "fence", "x"]).unwrap_err().starts_with("WRONGTYPE"));
    /// ```
    pub fn command(&self, words: &[&str]) -> Result<String, String> {
        call(self.address(), self.password.as_deref(), words)
    }

    /// Returns the log of the server, over all restarts.
    pub fn log(&self) -> String {
        log(&self.folder)
    }

    fn server(&self) -> MutexGuard<'_, Process> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_documented_rights() -> bool {
    std::env::var_os("LOCKSTOCK_REDIS_ACL").is_some_and(|value| value == "1")
}

pub(crate) fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(crate) fn log(folder: &Scratch) -> String {
    let bytes = std::fs::read(folder.path().join("log")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the program of the Redis server.
pub(crate) fn program() -> OsString {
    std::env::var_os("LOCKSTOCK_REDIS_SERVER").unwrap_or_else(|| OsString::from("redis-server"))
}

fn spawn(program: &OsStr, folder: &Scratch, port: u16, arguments: &[String]) -> Process {
    let mut command = Command::new(program);
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder.path())
        .args(arguments);
    run(command, folder)
}

/// Starts a server that writes to the log in `folder`.
pub(crate) fn run(mut command: Command, folder: &Scratch) -> Process {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.path().join("log"))
        .and_then(|log| Ok((log.try_clone()?, log)));
    let (stdout, stderr) = log.expect("a log file in a private folder");
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let program = command.get_program().to_owned();
    Process::spawn(command).unwrap_or_else(|error| {
        panic!("cannot start {program:?}: {error}. Run `./dev setup` to install it")
    })
}

/// Waits until this server answers. Returns false if another process has the
/// port.
pub(crate) fn ready(server: &Process, port: u16, password: Option<&str>, folder: &Scratch) -> bool {
    let outcome = poll(START, || {
        if let Some(status) = server.exited() {
            return Some(Err(status));
        }
        // An older server on the port answers too, so PING proves nothing.
        let info = call(address(port), password, &["INFO", "server"]).ok()?;
        let process_id = format!("process_id:{}", server.id());
        // Another server: this one is about to find the port taken, and to
        // end.
        info.lines()
            .any(|line| line == process_id)
            .then_some(Ok(()))
    });
    match outcome {
        Some(Ok(())) => true,
        Some(Err(_)) if log(folder).contains("Address already in use") => false,
        Some(Err(status)) => panic!("redis-server {}:\n{}", describe(status), log(folder)),
        None => panic!("redis-server not ready after {START:?}:\n{}", log(folder)),
    }
}

/// Sends one command on a new connection.
pub(crate) fn call(
    address: SocketAddr,
    password: Option<&str>,
    words: &[&str],
) -> Result<String, String> {
    let unreachable = |error: io::Error| format!("unreachable: {error}");
    let stream = TcpStream::connect_timeout(&address, REPLY).map_err(unreachable)?;
    stream.set_read_timeout(Some(REPLY)).map_err(unreachable)?;
    stream.set_write_timeout(Some(REPLY)).map_err(unreachable)?;
    let mut stream = BufReader::new(stream);
    if let Some(password) = password {
        request(&mut stream, &["AUTH", password]).map_err(unreachable)??;
    }
    request(&mut stream, words).map_err(unreachable)?
}

fn request(
    stream: &mut BufReader<TcpStream>,
    words: &[&str],
) -> io::Result<Result<String, String>> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.get_mut().write_all(bytes.as_bytes())?;
    reply(stream)
}

/// One reply of RESP2, bytes that are no UTF-8 replaced.
fn reply(stream: &mut BufReader<TcpStream>) -> io::Result<Result<String, String>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line
        .split_at_checked(1)
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let length = || {
        rest.parse::<i64>()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, line))
    };
    Ok(match kind {
        "+" | ":" => Ok(rest.into()),
        "-" => Err(rest.into()),
        "$" | "*" if length()? < 0 => Ok("(nil)".into()),
        "$" => {
            let mut bytes = vec![0; length()? as usize + 2];
            stream.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => {
            let mut elements = Vec::new();
            for _ in 0..length()? {
                // An error inside an array (EXEC) is an element like others.
                elements.push(reply(stream)?.unwrap_or_else(|error| error));
            }
            Ok(elements.join("\n"))
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, line)),
    })
}
