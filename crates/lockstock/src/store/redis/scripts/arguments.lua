-- Positions in ARGV: behind its four first elements the arguments of the releases, then those of
-- the acquires, then the named operations.
--
-- Provides: release_args, acquire_args
-- Uses:     prelude

-- Position of the first argument of the `i`th release.
local function release_args(i) return 5 + 2 * (i - 1) end

-- Position of the first argument of the `i`th acquire. The position behind the last acquire is
-- that of the first named operation.
local function acquire_args(i) return 5 + 2 * RELEASES + 6 * (i - 1) end
