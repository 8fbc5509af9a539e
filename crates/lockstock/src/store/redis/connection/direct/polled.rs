//! One connection that never waits: its caller knows when the descriptor is ready.

use std::io::{ErrorKind, Read, Write};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};

use redis::{Cmd, Value};

use super::DirectError;
use super::link::{broken, no_reply};
use super::reply::{MAX_REPLY_BYTES, ReplyReader};
use super::reply_end::ReplyEnd;
use super::socket::{NonBlockingSocket, Socket};

/// The memory for received bytes, unless a reply is longer.
const INPUT_BYTES: usize = 16 * 1024;
/// How much memory for commands and for replies a connection keeps.
const MAX_KEPT_BYTES: usize = 64 * 1024;
/// How much is read at once: the event loop has other work.
const MAX_RECEIVED_BYTES: usize = 1024 * 1024;

pub(in crate::store) struct PolledLink {
    socket: NonBlockingSocket,
    /// Received, from `start` to `end`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    reply_end: ReplyEnd,
    replies: ReplyReader,
    /// Commands, of which `sent` bytes are sent.
    output: Vec<u8>,
    sent: usize,
    /// How many bytes were sent before those in `output`.
    sent_before: u64,
}

impl PolledLink {
    pub(super) fn new(socket: Socket) -> Result<Self, DirectError> {
        Ok(Self {
            socket: socket.into_nonblocking().map_err(broken)?,
            input: vec![0; INPUT_BYTES],
            start: 0,
            end: 0,
            reply_end: ReplyEnd::new(),
            replies: ReplyReader::new(MAX_REPLY_BYTES),
            output: Vec::new(),
            sent: 0,
            sent_before: 0,
        })
    }

    /// Appends a command to what is sent next. Returns its position in the stream.
    pub(in crate::store) fn push(&mut self, command: &Cmd) -> u64 {
        let position = self.sent_before + self.output.len() as u64;
        command.write_packed_command(&mut self.output);
        position
    }

    /// Returns the number of bytes that were not sent yet.
    pub(in crate::store) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Returns whether anything of a command may have been sent that was pushed at `position`.
    pub(in crate::store) fn has_begun(&self, position: u64) -> bool {
        position < self.sent_before + self.sent as u64
    }

    /// Sends what the socket takes at the moment.
    pub(in crate::store) fn flush(&mut self) -> Result<(), DirectError> {
        while self.sent < self.output.len() {
            match self.socket.write(&self.output[self.sent..]) {
                Ok(0) => return Err(broken(ErrorKind::WriteZero.into())),
                Ok(count) => self.sent += count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::Interrupted => {}
                    _ => return Err(broken(error)),
                },
            }
        }
        self.sent_before += self.sent as u64;
        self.sent = 0;
        self.output.clear();
        if self.output.capacity() > MAX_KEPT_BYTES {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// Reads what has arrived, or a part of it.
    pub(in crate::store) fn receive(&mut self) -> Result<(), DirectError> {
        let mut received = 0;
        while received < MAX_RECEIVED_BYTES {
            self.make_room();
            let room = self.input.len() - self.end;
            match self.socket.read(&mut self.input[self.end..]) {
                Ok(0) => return Err(broken(ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    self.end += count;
                    received += count;
                    if count < room {
                        return Ok(());
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::Interrupted => {}
                    _ => return Err(broken(error)),
                },
            }
        }
        Ok(())
    }

    /// Returns the next reply that has arrived whole. It may be an error of the server.
    pub(in crate::store) fn reply(&mut self) -> Result<Option<Value>, DirectError> {
        let received = &self.input[self.start..self.end];
        let Some(length) = self.reply_end.find(received).map_err(no_reply)? else {
            return Ok(None);
        };
        let reply = self.replies.read(&mut &received[..length]);
        self.start += length;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.input.len() > MAX_KEPT_BYTES {
                self.input = vec![0; INPUT_BYTES];
            }
        }
        reply.map(Some).map_err(no_reply)
    }

    /// Returns whether a reply has arrived in part, or one to no command.
    pub(in crate::store) fn has_input(&self) -> bool {
        self.start < self.end
    }

    fn make_room(&mut self) {
        if self.end < self.input.len() {
            return;
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        } else {
            self.input.resize(2 * self.input.len(), 0);
        }
    }
}

#[cfg(unix)]
impl AsFd for PolledLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
