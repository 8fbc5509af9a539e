//! The Lua scripts, each assembled from the fragments in `scripts/`.
//!
//! Redis executes a script from top to bottom on every call, so each script contains only the
//! fragments that its operations need, the fast paths first.

use std::ops::Deref;

use lockstock_fork::PerProcess;

use super::connection::LuaScript;

macro_rules! script {
    ($($fragment:literal),*) => {
        LazyScript::new(concat!($(include_str!(concat!("scripts/", $fragment))),*))
    };
}

/// A script that is hashed at its first use.
///
/// Not a `LazyLock`: a child of `fork` would wait without end for the thread of its parent that was
/// at the first use.
pub(super) struct LazyScript {
    source: &'static str,
    script: PerProcess<LuaScript>,
}

impl LazyScript {
    const fn new(source: &'static str) -> Self {
        Self {
            source,
            script: PerProcess::new(),
        }
    }
}

impl Deref for LazyScript {
    type Target = LuaScript;

    fn deref(&self) -> &LuaScript {
        self.script.get_or_init(|| LuaScript::new(self.source))
    }
}

/// The frequent operations of exclusive locks.
pub(super) static LOCKS: LazyScript = script!(
    "lone.lua",
    "prelude.lua",
    "fast_path.lua",
    "arguments.lua",
    "notify.lua",
    "contended.lua",
    "exclusive.lua",
    "queue.lua",
    "acquire_release.lua",
    "keep.lua",
    "dispatch.lua"
);
/// The rare operations of exclusive locks.
pub(super) static LOCKS_RARE: LazyScript = script!(
    "prelude.lua",
    "arguments.lua",
    "notify.lua",
    "exclusive.lua",
    "queue.lua",
    "acquire_release.lua",
    "rare.lua",
    "dispatch.lua"
);
/// All operations of semaphores and read-write locks.
pub(super) static SHARED: LazyScript = script!(
    "prelude.lua",
    "arguments.lua",
    "notify.lua",
    "shared.lua",
    "queue.lua",
    "acquire_release.lua",
    "rare.lua",
    "dispatch.lua"
);
pub(super) static PING: LazyScript = script!("ping.lua");
pub(super) static INSPECT: LazyScript = script!("inspect.lua");
pub(super) static PUBLISH: LazyScript = script!("publish.lua");

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use lockstock_testkit::Redis;

    use super::*;

    #[test]
    fn each_assembled_script_compiles_and_has_the_expected_hash() {
        let redis = Redis::start();
        for script in [&LOCKS, &LOCKS_RARE, &SHARED, &PING, &INSPECT, &PUBLISH] {
            let loaded = redis.command(&["SCRIPT", "LOAD", script.source()]);
            assert_eq!(loaded.as_deref(), Ok(script.sha()));
        }
    }
}
