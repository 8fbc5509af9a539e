//! Locks in one Redis or Valkey.
//!
//! Each step is one script, one round trip. A waiter stands in a queue there and is handed
//! the lock by whoever releases it, through one channel a process; of one name only the
//! first waiter of a process does so, the others stand in line behind it here.
//!
//! Every script may run twice with the same arguments, so a call whose answer was lost is
//! simply sent again, and waiters ask again after a break.

mod line;
mod wakes;
mod wire;

use std::pin::Pin;
use std::sync::LazyLock;
use std::time::Duration;

use rand::RngExt;
use redis::{Script, ScriptInvocation};
use tokio::time::{Instant, sleep};

use self::line::{InLine, Lines, Place};
use self::wakes::{Wake, Wakes};
use self::wire::Wire;
use super::{Answer, Attempt, How, Release};
use crate::error::{Error, Result};
use crate::key::Keys;

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(
                include_str!("../lock/queue.lua"),
                include_str!(concat!("../lock/", $file))
            ))
        })
    };
}

static ACQUIRE: LazyLock<Script> = script!("acquire.lua");
static LEAVE: LazyLock<Script> = script!("leave.lua");
static RELEASE: LazyLock<Script> = script!("release.lua");
static KEEP: LazyLock<Script> = script!("keep.lua");
static RENEW: LazyLock<Script> = script!("renew.lua");
static PING: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lock/ping.lua")));

/// How long after the end of a lease its waiters ask, at least and at most: not all at once.
const AFTER_LEASE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// How often a waiter asks while the holder is none of ours, who would tell nobody.
const FIRST_POLL: Duration = Duration::from_millis(20);
const LAST_POLL: Duration = Duration::from_millis(100);

pub(super) struct Redis {
    wire: Wire,
    /// This process, as the channel of its wakes and its waiters name it.
    process: String,
    wakes: Wakes,
    lines: Lines,
}

/// What the store said to one question.
enum Said {
    Granted { fence: u64, deadline: Instant },
    Busy(Holder),
}

/// Who has the lock, as far as Redis tells.
struct Holder {
    how: How,
    is_ours: bool,
    left: Option<Duration>,
    /// When we asked, and what the server's clock said in its answer, in µs.
    asked: Instant,
    clock: i64,
}

impl Holder {
    fn busy(&self) -> Answer {
        Answer::Busy {
            left: self.left,
            how: self.how,
        }
    }

    /// Whether waiting for it is in vain.
    fn is_kept_beyond(&self, attempt: &Attempt) -> bool {
        let outlived = |patience| self.left.is_some_and(|left| left <= patience);
        self.how == How::Kept
            && attempt
                .patience()
                .is_some_and(|patience| !outlived(patience))
    }
}

impl Redis {
    pub(super) async fn connect(url: &str, limit: Duration) -> Result<Self> {
        let process = format!("{:016x}", rand::random::<u64>());
        let wakes = Wakes::new();
        let channel = format!("lockstock:wake:{process}");
        let wire = Wire::connect(url, channel, wakes.clone(), limit).await?;
        let redis = Self {
            wire,
            process,
            wakes,
            lines: Lines::default(),
        };
        redis.ping().await?;
        Ok(redis)
    }

    /// A script that writes, rather than `PING`: whoever cannot do that cannot lock.
    pub(super) async fn ping(&self) -> Result<()> {
        let script = PING.key(format!("lockstock:ping:{}", self.process));
        self.wire.run::<bool>(&script).await.map(drop)
    }

    /// Waits for the lock as long as the attempt may. `None` once `gone` is done; whoever
    /// gets that or an error withdraws the attempt.
    pub(super) async fn acquire(
        &self,
        attempt: &Attempt,
        gone: impl Future<Output = ()> + Send,
    ) -> Result<Option<Answer>> {
        if attempt.is_over() {
            return self.try_once(attempt).await;
        }
        let mut gone = std::pin::pin!(gone);
        let in_line = tokio::select! {
            in_line = self.lines.stand(&attempt.keys.holder, attempt.until) => in_line,
            () = &mut gone => return Ok(None),
        };
        match in_line {
            InLine::First(place) => {
                let answer = self.wait(attempt, &place, gone).await;
                if let Err(error) = &answer {
                    // They would hear the same, one after another, each after its timeout.
                    place.tell_failed(&error.to_string());
                }
                answer
            }
            InLine::Kept(ends) => Ok(Some(Answer::Busy {
                left: Some(ends.saturating_duration_since(Instant::now())),
                how: How::Kept,
            })),
            InLine::Failed(why) => Err(Error::unavailable(why)),
            InLine::TooLate => self.try_once(attempt).await,
        }
    }

    async fn try_once(&self, attempt: &Attempt) -> Result<Option<Answer>> {
        attempt.member.get_or_init(String::new);
        let (said, _) = self.ask(attempt).await?;
        Ok(Some(said.into()))
    }

    /// Waits as the first in line.
    async fn wait(
        &self,
        attempt: &Attempt,
        place: &Place,
        mut gone: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Option<Answer>> {
        attempt.member.get_or_init(|| self.member(attempt));
        let mut poll = FIRST_POLL;
        // Listening before asking: a grant that comes in between is heard.
        let mut listening = self.wakes.listen(attempt.token);
        loop {
            let (holder, queued) = match self.ask(attempt).await? {
                (Said::Granted { fence, deadline }, _) => {
                    return Ok(Some(Answer::Granted { fence, deadline }));
                }
                (Said::Busy(holder), queued) => (holder, queued),
            };
            if holder.how == How::Kept
                && let Some(left) = holder.left
            {
                place.tell_kept(Instant::now() + left);
            }
            if holder.is_kept_beyond(attempt) {
                return match queued {
                    // The store thought that there was just time enough.
                    true => self
                        .leave(attempt, false)
                        .await
                        .map(|said| Some(said.into())),
                    false => Ok(Some(holder.busy())),
                };
            }
            let told = tokio::select! {
                biased;
                told = listening.next() => told,
                () = sleep(nap(&holder, attempt.patience(), &mut poll)) => None,
                () = &mut gone => return Ok(None),
            };
            match told {
                Some(Wake::Held { fence, lease, at }) => {
                    let deadline = granted_until(&holder, lease, at);
                    return Ok(Some(Answer::Granted { fence, deadline }));
                }
                Some(Wake::Kept { left }) => {
                    place.tell_kept(Instant::now() + left);
                    let (left, how) = (Some(left), How::Kept);
                    return Ok(Some(Answer::Busy { left, how }));
                }
                None if attempt.is_over() => {
                    return self
                        .leave(attempt, false)
                        .await
                        .map(|said| Some(said.into()));
                }
                // The lease ended, or the connection broke and whatever was pushed is lost.
                Some(Wake::Ask) | None => {}
            }
        }
    }

    /// Undoes an attempt whose end nobody knows or wants: leaves the queue, gives back what
    /// was granted.
    pub(super) async fn withdraw(&self, attempt: &Attempt) -> Result<()> {
        if attempt.member.get().is_none() {
            return Ok(());
        }
        self.leave(attempt, true).await.map(drop)
    }

    /// The attempt as the queue has it.
    fn member(&self, attempt: &Attempt) -> String {
        let wait = attempt.patience().map_or(-1, signed_millis);
        let (process, lease) = (&self.process, millis(attempt.lease));
        format!("{process}:{lease}:{wait}:{}", attempt.token)
    }

    /// Asks for the lock, and whether we stand in the queue now.
    async fn ask(&self, attempt: &Attempt) -> Result<(Said, bool)> {
        let mut script = on(&ACQUIRE, &attempt.keys);
        script
            .arg(attempt.token.to_string())
            .arg(millis(attempt.lease))
            .arg(attempt.patience().map_or(-1, signed_millis))
            .arg(attempt.member.get().map_or("", String::as_str));
        self.question(&script).await
    }

    async fn leave(&self, attempt: &Attempt, give_back: bool) -> Result<Said> {
        let mut script = on(&LEAVE, &attempt.keys);
        script
            .arg(attempt.token.to_string())
            .arg(attempt.member.get().map_or("", String::as_str))
            .arg(u8::from(give_back));
        self.question(&script).await.map(|(said, _)| said)
    }

    async fn question(&self, script: &ScriptInvocation<'_>) -> Result<(Said, bool)> {
        let ran = self
            .wire
            .run::<(String, u64, i64, i64, bool)>(script)
            .await?;
        let (how, fence, left, clock, queued) = ran.answer;
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        if how == "granted" {
            // From before the last attempt was sent: never later than the server's own end.
            let deadline = ran.begun + left.unwrap_or_default();
            return Ok((Said::Granted { fence, deadline }, false));
        }
        let holder = Holder {
            is_ours: how != "foreign",
            how: if how == "kept" { How::Kept } else { How::Held },
            left,
            asked: ran.begun,
            clock,
        };
        Ok((Said::Busy(holder), queued))
    }

    pub(super) async fn release(&self, attempt: &Attempt) -> Result<Release> {
        let mut script = on(&RELEASE, &attempt.keys);
        script.arg(attempt.token.to_string());
        let ran = self.wire.run::<bool>(&script).await?;
        Ok(match (ran.answer, ran.repeated) {
            (true, _) => Release::Done,
            (false, false) => Release::NotOurs,
            (false, true) => Release::Unclear,
        })
    }

    pub(super) async fn keep(&self, attempt: &Attempt) -> Result<bool> {
        let mut script = on(&KEEP, &attempt.keys);
        script.arg(attempt.token.to_string());
        self.wire.run(&script).await.map(|ran| ran.answer)
    }

    pub(super) async fn renew(&self, attempt: &Attempt, left: Duration) -> Result<bool> {
        let mut script = on(&RENEW, &attempt.keys);
        script.arg(attempt.token.to_string()).arg(millis(left));
        self.wire.run(&script).await.map(|ran| ran.answer)
    }
}

impl From<Said> for Answer {
    fn from(said: Said) -> Self {
        match said {
            Said::Granted { fence, deadline } => Self::Granted { fence, deadline },
            Said::Busy(holder) => holder.busy(),
        }
    }
}

fn on<'a>(script: &'a Script, keys: &Keys) -> ScriptInvocation<'a> {
    let mut script = script.key(&keys.holder[..]);
    script.key(&keys.fence[..]).key(&keys.queue[..]);
    script
}

/// How long to wait before asking again, should nobody tell us anything: until a little
/// after the lease of the holder, who may have died, or the end of the wait.
fn nap(holder: &Holder, patience: Option<Duration>, poll: &mut Duration) -> Duration {
    let mut rng = rand::rng();
    let lease_ends = holder
        .left
        .map(|left| left + rng.random_range(AFTER_LEASE.0..AFTER_LEASE.1));
    let next_poll = (!holder.is_ours).then(|| {
        let pause = poll.mul_f64(rng.random_range(0.8..1.0));
        *poll = (*poll * 2).min(LAST_POLL);
        pause
    });
    [lease_ends, next_poll, patience]
        .into_iter()
        .flatten()
        .min()
        // A holder of ours always has a lease; if one had none, this would be a poll.
        .unwrap_or(LAST_POLL)
}

/// Until when a lock is ours that was granted `at`, by the server's clock. We know what that
/// clock said to our last question, which we had sent before; and we cannot have been told
/// before it happened.
fn granted_until(holder: &Holder, lease: Duration, at: i64) -> Instant {
    let since_asked = u64::try_from(at.saturating_sub(holder.clock)).unwrap_or_default();
    let granted = holder.asked + Duration::from_micros(since_asked);
    granted.min(Instant::now()) + lease
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn signed_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
