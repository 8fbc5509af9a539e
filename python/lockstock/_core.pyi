"""The native module. Its names are not part of the public interface: use `lockstock`.

Keys and names are `str` (sent as UTF-8) or `bytes`. A method `begin_…` starts a call on the runtime
of the process; the bell of the event loop delivers its outcome under a number that the caller
chooses. A method `send_…` sends commands over a connection of the event loop, and returns None if
it sent nothing: the call has to be begun on the runtime. Every call raises
`lockstock.errors.Unavailable` if the store is down, `TimedOut` (a subclass) if it does not reply
within the timeout, and `ResponseError` (a subclass) if it rejects the command; or the exception of
a signal handler that runs during the call.
"""

from collections.abc import Callable, Generator, Iterable
from contextvars import Context
from types import NotImplementedType
from typing import Any, Literal, final

_Word = str | bytes | bytearray | int | float
_Kind = Literal["lock", "semaphore", "read", "write", "all"]

__all__ = [
    "Bell",
    "Cache",
    "Computation",
    "Held",
    "NearCache",
    "Pending",
    "Store",
    "Wire",
    "Wires",
    "drain",
    "lz4_compress",
    "lz4_decompress",
    "zstd_compress",
    "zstd_decompress",
]

@final
class Store:
    """A store at a URL, for all threads, event loops and children of a process.

    Connects at the first call. `timeout` is in seconds, and bounds each command with the time to
    connect. `ca_certs`, `certfile` and `keyfile` name files in PEM. Raises
    `lockstock.errors.Invalid` for a malformed URL and `OSError` if a file cannot be read.
    """

    def __new__(
        cls,
        url: str,
        *,
        timeout: float = 1.0,
        username: str | None = None,
        password: str | None = None,
        connect_timeout: float | None = None,
        max_connections: int | None = None,
        ca_certs: str | None = None,
        certfile: str | None = None,
        keyfile: str | None = None,
    ) -> Store: ...
    @property
    def tracer(self) -> Any:
        """The tracer, None without one."""

    def trace(self, tracer: Any) -> None:
        """Reports each command to a tracer from now on, unless there is one already.

        Its `begin(name, count)` returns a span, whose `end(exception or None)` is called.
        """

    def execute(self, *words: _Word) -> Any:
        """Executes a command and returns its reply.

        The reply is `None`, `int`, `float`, `bool`, `bytes`, `str` (a status), `list` or `dict`.
        """

    def get_many(self, keys: Iterable[str | bytes]) -> list[bytes | None]:
        """Returns the values under several keys, in order."""

    def delete_many(self, keys: Iterable[str | bytes]) -> int:
        """Removes the values under several keys. Returns the number of values removed."""

    def pipeline(self, commands: list[tuple[_Word, ...]]) -> list[Any]:
        """Executes several repeatable commands, without a round trip for each.

        Raises `lockstock.errors.Invalid` if one of them must not be repeated, as `INCR`.
        """

    def scan(self, pattern: str) -> list[bytes]:
        """Returns the keys that match a pattern of Redis, of all servers."""

    def info(self) -> dict[str, str]:
        """Returns what `INFO` reports, by name."""

    def holders(self, kind: _Kind, name: str | bytes) -> list[str]:
        """Returns the tokens of the holders of a lock, the earliest deadline first.

        A holder that is another library has a token that begins with `foreign:`.
        """

    def close_idle(self) -> None:
        """Closes connections that are not in use. The next call opens another."""

    def acquire(
        self,
        name: str | bytes | Iterable[str | bytes],
        lease_ms: int,
        wait_ms: int | None,
        renew_ms: int | None,
        kind: _Kind,
        permits: int,
        token: str | None,
    ) -> Held | None:
        """Acquires a lock. Returns `None` if it was not acquired within the wait.

        Waits without end if `wait_ms` is `None`, not at all if it is 0. Renews the lease in the
        background for at most `renew_ms`. `kind` "all" has several names. `permits` is the size of
        a semaphore. `token` becomes the token of the holder: 32 hexadecimal digits. Raises
        `lockstock.errors.Invalid` if the lease is not between 1 ms and 24 h.
        """

    def send_execute(self, wires: Wires, *words: _Word) -> Pending | None:
        """Sends a command."""

    def send_pipeline(self, wires: Wires, commands: list[tuple[_Word, ...]]) -> Pending | None:
        """Sends several repeatable commands."""

    def begin_execute(self, bell: Bell, number: int, *words: _Word) -> None:
        """Begins `execute`."""

    def begin_pipeline(self, bell: Bell, number: int, commands: list[tuple[_Word, ...]]) -> None:
        """Begins `pipeline`."""

    def begin_scan(self, bell: Bell, number: int, pattern: str) -> None:
        """Begins `scan`."""

    def begin_holders(self, bell: Bell, number: int, kind: _Kind, name: str | bytes) -> None:
        """Begins `holders`."""

    def begin_acquire(
        self,
        bell: Bell,
        number: int,
        name: str | bytes | Iterable[str | bytes],
        lease_ms: int,
        wait_ms: int | None,
        renew_ms: int | None,
        kind: _Kind,
        permits: int,
        token: str | None,
    ) -> None:
        """Begins `acquire`. A lock whose outcome is dropped is released."""

    def release(self, kind: _Kind, name: str | bytes, token: str) -> bool:
        """Releases the lock of the holder with a token. Returns whether it held the lock."""

    def begin_release(
        self, bell: Bell, number: int, kind: _Kind, name: str | bytes, token: str
    ) -> None:
        """Begins `release`."""

    def compute(
        self,
        key: str | bytes,
        ttl_ms: int | None,
        stale_ms: int,
        lease_ms: int | None,
        max_wait_ms: int,
    ) -> Computation:
        """Begins a call for the value under a key, which may have to be computed.

        The value never expires if `ttl_ms` is `None`, and is kept for `stale_ms` longer. Without a
        lease, one caller computes in each process.
        """

@final
class Computation:
    """A call that found no value. If the object is dropped, another caller computes."""

    def wait(self) -> bytes | None:
        """Waits for the value of another caller. Returns `None` if this one has to compute.

        Raises `lockstock.errors.Invalid` if the key or a time is out of range; never `Unavailable`.
        """

    def finish(self, value: bytes) -> bytes:
        """Gives the value to the other callers, and writes it if there is none.

        Returns the value that is there now.
        """

    def fail(self) -> bytes | None:
        """Lets another caller compute. Returns the stale value, `None` if there is none."""

    def abandon(self) -> None:
        """Lets another caller compute, unless the call has ended. Does not wait."""

    def begin_wait(self, bell: Bell, number: int) -> None:
        """Begins `wait`."""

    def begin_finish(self, bell: Bell, number: int, value: bytes) -> None:
        """Begins `finish`."""

    def begin_fail(self, bell: Bell, number: int) -> None:
        """Begins `fail`."""

@final
class Held:
    """A lock that is held until it is released, kept or lost.

    If the object is dropped, the lock is released in the background. A child of `fork` does not own
    the lock of its parent: only an explicit `release` has an effect there.
    """

    @property
    def token(self) -> str:
        """The identity of the holder, 32 hexadecimal digits. Of several locks: of the first."""

    @property
    def fence(self) -> int:
        """The number of the acquisition: of several locks, the highest."""

    @property
    def claims(self) -> list[tuple[bytes, str, int]]:
        """The name, token and fence of each lock."""

    @property
    def deadline(self) -> float:
        """When the lease ends, in the seconds of `time.monotonic()`."""

    @property
    def lost(self) -> bool:
        """Whether another client may hold the lock now."""

    @property
    def inherited(self) -> bool:
        """Whether the parent of this process holds the lock."""

    def remaining(self) -> float:
        """Returns the seconds until the lease ends, 0 if the lock is lost."""

    def stay_held(self, is_endless: bool) -> None:
        """Lets the lock stay held if this object is collected before it is released.

        It is kept to the end of its lease, or if it is endless, renewed until the process ends.
        Without this call, the collector releases it.
        """

    def release(self) -> bool:
        """Releases the lock. Returns whether it was still held.

        If a signal handler raises, the release continues in the background.
        """

    def keep(self) -> bool:
        """Leaves the lock held to the end of its lease. Returns whether it was still held."""

    def extend(self, by_ms: int) -> bool:
        """Adds to the lease. Returns whether the lock was still held."""

    def set_remaining(self, remaining_ms: int) -> bool:
        """Sets what remains of the lease. Returns whether the lock was still held."""

    def renew(self) -> bool:
        """Starts the lease again. Returns whether the lock was still held."""

    def begin_release(self, bell: Bell, number: int) -> None:
        """Begins `release`, which is carried out even if its outcome is dropped."""

    def begin_keep(self, bell: Bell, number: int) -> None:
        """Begins `keep`, which is carried out even if its outcome is dropped."""

    def begin_extend(self, bell: Bell, number: int, by_ms: int) -> None:
        """Begins `extend`."""

    def begin_set_remaining(self, bell: Bell, number: int, remaining_ms: int) -> None:
        """Begins `set_remaining`."""

    def begin_renew(self, bell: Bell, number: int) -> None:
        """Begins `renew`."""

@final
class Pending:
    """A call that was sent over the connection of an event loop: a future-like object of asyncio.

    Its value is the reply, or a list of several, or `NotImplemented` if the call has to be
    continued by `begin_rest`. A task that awaits it is resumed in the callback that has read the
    reply.
    """

    def __await__(self) -> Generator[Any, None, Any]: ...
    def begin_rest(self, bell: Bell, number: int) -> None:
        """Begins to execute on the runtime what the connection could not carry out."""

    def get_loop(self) -> Any:
        """Returns the event loop."""

    def done(self) -> bool:
        """Returns whether the call has ended."""

    def add_done_callback(
        self, function: Callable[[Pending], Any], *, context: Context | None = None
    ) -> None:
        """Lets a function be called at the end of the call."""

    def result(self) -> None:
        """Raises `CancelledError` if the call was cancelled. `await` returns its value."""

    def cancelled(self) -> bool:
        """Returns whether the call was cancelled."""

    def cancel(self, msg: Any = None) -> bool:
        """Gives the reply up. Returns whether the call had not ended."""

@final
class Wire:
    """A connection of an event loop.

    Iterates over what ended calls have to call: a context, a function, and its argument.
    """

    def __iter__(self) -> Wire: ...
    def __next__(self) -> tuple[Context, Callable[[Pending], Any], Pending]: ...
    def receive(self) -> None:
        """Reads replies. After that, iterate, and call `finish`."""

    def finish(self) -> None:
        """Sends what was pushed meanwhile, or closes the connection if it is broken."""

    def flush(self) -> None:
        """Sends what was pushed."""

    def expire(self, timer: int) -> bool:
        """Fails the calls whose time limit has passed, unless there is a later timer."""

@final
class Wires:
    """The connections of an event loop, one to each store, which it gets after some calls."""

    def __new__(
        cls,
        bell: Bell,
        readable: Callable[[Wire], None],
        check: Callable[[Wire, int], None],
    ) -> Wires: ...

@final
class Bell:
    """The calls of one event loop that are under way. If it is dropped, so are they."""

    def __new__(cls) -> Bell: ...
    def fileno(self) -> int:
        """Returns the descriptor, which is readable if there are outcomes."""

    def take(self, taken: list[tuple[int, bool, Any]]) -> None:
        """Appends the outcomes since the last call to a list.

        Each has its number, whether it failed, and the value or the exception.
        """

    def cancel(self, number: int) -> None:
        """Drops the call with this number, or its outcome. A lock that it acquired is released."""

@final
class NearCache:
    """Copies of values of a store, in at most `max_bytes` of memory.

    A copy ends with its value, and `ttl` seconds after it was read. A child of `fork` begins
    without copies.
    """

    def __new__(cls, store: Store, max_bytes: int, ttl: float | None = None) -> NearCache: ...

@final
class Cache:
    """The calls of a cache of Django in one step each: key, command, and value of the reply.

    A key of the class `made_key` is that in the store. Of another key, it is made by Django's
    default function if `makes_keys` is true, unless `warns` is true and Django would warn of it.
    A method that returns `NotImplemented` has sent nothing: Python has to make the key, or to
    execute a command. `loads` and `dumps` decode and encode what is no integer. If `loads` returns
    `NotImplemented`, the bytes count as no value. `pickle_loads` decodes what begins as a pickle.
    """

    def __new__(
        cls,
        store: Store,
        *,
        loads: Callable[[bytes], Any],
        pickle_loads: Callable[[bytes], Any] | None,
        dumps: Callable[[Any], bytes],
        made_key: type[str],
        makes_keys: bool,
        warns: bool,
        near: NearCache | None = None,
    ) -> Cache: ...
    @property
    def tracer(self) -> Any:
        """The tracer of the store, None without one."""

    def get(self, key: Any, version: Any, prefix: Any, default: Any, /) -> Any:
        """Returns the value under a key, `default` if there is none."""

    def set(
        self,
        key: Any,
        version: Any,
        prefix: Any,
        value: Any,
        timeout: Any,
        nx: bool,
        xx: bool,
        /,
    ) -> bool | NotImplementedType:
        """Writes a value. Returns whether the condition was met. `timeout` is in seconds."""

    def delete(self, key: Any, version: Any, prefix: Any, /) -> int | NotImplementedType:
        """Removes a value. Returns the number of values removed."""

    def touch(
        self, key: Any, version: Any, prefix: Any, timeout: Any, /
    ) -> bool | NotImplementedType:
        """Sets when a value expires. Returns whether it was changed."""

    def incr(
        self, key: Any, version: Any, prefix: Any, delta: Any, script: str | None, /
    ) -> int | None | NotImplementedType:
        """Adds to an integer and returns the sum: by a script, or without one by `INCRBY`.

        Returns `None` if the script has found no value.
        """

    def get_many(
        self, keys: list[Any], version: Any, prefix: Any, /
    ) -> dict[Any, Any] | NotImplementedType:
        """Returns the values that exist, by key."""

    def set_many(
        self, data: dict[Any, Any], version: Any, prefix: Any, timeout: Any, /
    ) -> None | NotImplementedType:
        """Writes several values."""

    def key(self, key: Any, version: Any, prefix: Any, /) -> bytes | NotImplementedType:
        """Returns the key in the store."""

    def copy(self, key: bytes, /) -> bytes | None | NotImplementedType:
        """Returns the copy of the value under a key in the store, `None` if there is no value.

        Returns `NotImplemented` if the store has to be asked.
        """

    def send_get(
        self, key: Any, version: Any, prefix: Any, wires: Wires, /
    ) -> Pending | None | NotImplementedType:
        """Sends a read of the bytes under a key."""

    def begin_get(self, bell: Bell, number: int, key: bytes) -> None:
        """Begins to read the bytes under a key in the store."""

    def decode(self, value: bytes, default: Any, /) -> Any:
        """Returns the value of the bytes in the store, `default` if they count as none."""

def lz4_compress(value: bytes) -> bytes:
    """Compresses as one LZ4 frame."""

def lz4_decompress(value: bytes, max_bytes: int) -> bytes:
    """Decompresses LZ4 frames.

    Raises `ValueError` for other bytes, and for more than `max_bytes`.
    """

def zstd_compress(value: bytes) -> bytes:
    """Compresses as one Zstandard frame, at the library's default level."""

def zstd_decompress(value: bytes, max_bytes: int) -> bytes:
    """Decompresses Zstandard frames.

    Raises `ValueError` for other bytes, and for more than `max_bytes`.
    """

def drain() -> None:
    """Waits until what is given up has reached its store, for a second at most. Called at exit."""
