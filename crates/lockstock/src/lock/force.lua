-- Takes the lock away from one who does not give it back, whether it is held or kept: it goes
-- to the first waiter, or to nobody, as in a release.
--
-- id: the holder's token, or 'foreign:' and the digest of its value, see look.lua.
--
-- Answers 1: taken away, 0: that one had it no longer. Whoever came after it keeps it.
--
-- Atomic because between a compare and a delete the next holder may come.
local function force(id)
  local _, left = standing()
  if not evict(id) then return 0 end
  -- Those behind it in its process wait for its release, or for the end of its lease.
  if string.find(id, '^%x+$') then wake(string.sub(id, 1, 16), 'lost:' .. id) end
  hand_over(left)
  return 1
end
