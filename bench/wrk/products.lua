-- One request for one random product at a time.
--
--   wrk -s products.lua URL -- get|patch PRODUCTS SEED [check]
--
-- Products have the ids 1 to PRODUCTS. PATCH sets the stock to a random number, so that every
-- one of them is a write. Prints the results as the last line, in JSON; times in microseconds.
-- With `check` every answer's status is counted. That costs wrk some microseconds an answer,
-- which the server would have to do without on a small machine: so it is for the warm-up, and
-- the measured rounds count only what is 400 or more, as wrk does by itself.

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local method, products, seed = args[1], tonumber(args[2]), tonumber(args[3])
   math.randomseed(seed)
   -- Made once: formatting each request again would cost wrk more than sending it.
   local requests = {}
   if method == "get" then
      for id = 1, products do
         requests[id] = wrk.format("GET", "/api/products/" .. id .. "/")
      end
      request = function()
         return requests[math.random(products)]
      end
   else
      -- Always six digits, so that the length that wrk.format puts into the header is right.
      local body = '{"stock":100000}'
      local headers = { ["Content-Type"] = "application/json" }
      for id = 1, products do
         local whole = wrk.format("PATCH", "/api/products/" .. id .. "/", headers, body)
         requests[id] = whole:sub(1, -1 - #body)
      end
      request = function()
         return requests[math.random(products)] .. '{"stock":' .. math.random(100000, 999999) .. "}"
      end
   end
   if args[4] == "check" then
      statuses = {}
      response = function(status)
         local key = tostring(status)
         statuses[key] = (statuses[key] or 0) + 1
      end
   end
end

function done(summary, latency, requests)
   local counted = {}
   for _, thread in ipairs(threads) do
      for status, count in pairs(thread:get("statuses") or {}) do
         counted[status] = (counted[status] or 0) + count
      end
   end
   local statuses = {}
   for status, count in pairs(counted) do
      table.insert(statuses, string.format('"%s":%d', status, count))
   end
   local errors = summary.errors
   io.write(string.format(
      '{"requests":%d,"duration":%d,"p50":%d,"p99":%d,"max":%d,'
         .. '"refused":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"statuses":{%s}}\n',
      summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), latency.max,
      errors.status, errors.connect, errors.read, errors.write, errors.timeout,
      table.concat(statuses, ",")))
end
