use lockstock_testkit::Redis as Server;
use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::blocking::Store;

/// Far above what a call takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

fn store(server: &Server) -> Store {
    let builder = Store::builder(server.url()).timeout(TIMEOUT);
    builder.open().unwrap()
}

fn command(words: &[&str]) -> Command {
    let command = Command::new(words[0]);
    words[1..].iter().fold(command, Command::arg)
}

/// Waits for the next command that has ended, as an event loop does.
fn next(connection: &mut PolledConnection<u32>) -> (u32, Settled) {
    loop {
        if let Some(settled) = connection.settled() {
            return settled;
        }
        poll(
            &mut [PollFd::new(&connection.descriptor(), PollFlags::IN)],
            None,
        )
        .unwrap();
        connection.receive();
    }
}

#[test]
fn each_reply_comes_back_with_the_tag_of_its_command() {
    let server = Server::start();
    let mut connection = store(&server).connect_polled::<u32>().unwrap().unwrap();
    assert!(connection.is_idle());
    for number in 0..3 {
        let command = command(&["ECHO", &number.to_string()]);
        assert!(connection.accepts(std::slice::from_ref(&command)));
        connection.push(command, number);
    }
    assert_eq!(connection.tags().count(), 3);
    assert!(connection.flush());
    for number in 0..3 {
        let (tag, settled) = next(&mut connection);
        let Settled::Reply(Ok(Reply::Bytes(reply))) = settled else {
            panic!("{settled:?}");
        };
        assert_eq!((tag, &reply[..]), (number, number.to_string().as_bytes()));
    }
    assert!(connection.is_idle());
}

#[test]
fn of_a_broken_connection_what_was_sent_fails_unless_it_is_repeatable() {
    let server = Server::start();
    let mut connection = store(&server).connect_polled::<u32>().unwrap().unwrap();
    // The server stands still, so that no command has a reply.
    server.pause();
    connection.push(command(&["INCR", "n"]), 0);
    connection.push(command(&["GET", "n"]).repeatable(), 1);
    assert!(connection.flush());
    connection.push(command(&["INCR", "n"]), 2);
    server.kill();
    let (tag, settled) = next(&mut connection);
    assert!(matches!((tag, settled), (0, Settled::Reply(Err(_)))));
    assert!(connection.is_closed());
    server.restart();
    let runtime = Store::runtime().unwrap();
    for (number, reply) in [(1, Reply::Nil), (2, Reply::Integer(1))] {
        let (tag, settled) = next(&mut connection);
        let Settled::Left(left) = settled else {
            panic!("{settled:?}");
        };
        assert_eq!(tag, number);
        assert_eq!(runtime.block_on(left.execute()).unwrap(), reply);
    }
}

#[test]
fn a_connection_that_is_idle_for_a_minute_is_closed() {
    let server = Server::start();
    let idle = || {
        let mut connection = store(&server).connect_polled::<u32>().unwrap().unwrap();
        connection.used_at = Instant::now().checked_sub(MAX_IDLE).unwrap();
        connection
    };
    let mut checked = idle();
    assert!(checked.expire().is_none());
    assert!(checked.is_closed());
    let mut used = idle();
    assert!(!used.accepts(&[command(&["PING"])]));
    assert!(used.is_closed());
}

#[test]
fn a_store_without_one_server_has_no_polled_connection() {
    for url in [
        "memory://",
        "redis+cluster://127.0.0.1:1",
        "rediss://127.0.0.1:1",
    ] {
        let store = Store::open(url).unwrap();
        assert!(store.connect_polled::<()>().unwrap().is_none(), "{url}");
    }
    let store = Store::open("redis://127.0.0.1:1").unwrap();
    assert!(store.connect_polled::<()>().unwrap_err().is_unavailable());
}
