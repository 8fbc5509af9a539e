-- Sends one request for one random product at a time.
--
--   wrk -s products.lua URL -- get|patch|keyed|purchase PRODUCTS SEED
--
-- Products have the ids 1 to PRODUCTS. PATCH sets the stock to a random number, so that each
-- request is a write; `keyed` is a PATCH with an Idempotency-Key that is new. Prints the results as JSON in the last line, with times in microseconds.
-- Counting the statuses costs a small machine about 3 % of 48,000 responses per second, at the
-- expense of the faster server. wrk itself does not distinguish a 429 from a 500.

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local method, products, seed = args[1], tonumber(args[2]), tonumber(args[3])
   math.randomseed(seed)
   -- Formatted once, because formatting a request costs wrk more than sending it.
   local requests = {}
   if method == "get" or method == "purchase" then
      local headers = { ["Content-Type"] = "application/json" }
      for id = 1, products do
         local path = "/api/products/" .. id .. "/"
         if method == "get" then
            requests[id] = wrk.format("GET", path)
         else
            requests[id] = wrk.format("POST", path .. "purchases/", headers, '{"quantity":1}')
         end
      end
      request = function()
         return requests[math.random(products)]
      end
   else
      -- Six digits, like all random numbers, so that the Content-Length is right.
      local body = '{"stock":100000}'
      local headers = { ["Content-Type"] = "application/json" }
      if method == "keyed" then
         headers["Idempotency-Key"] = "KEY"
      end
      -- What precedes the key, and what follows it up to the body.
      local rest = {}
      for id = 1, products do
         local whole = wrk.format("PATCH", "/api/products/" .. id .. "/", headers, body)
         whole = whole:sub(1, -1 - #body)
         local key = whole:find("KEY\r\n", 1, true)
         requests[id] = key and whole:sub(1, key - 1) or whole
         rest[id] = key and whole:sub(key + 3)
      end
      local run, count = os.time() .. "-" .. math.random(1000000), 0
      request = function()
         local id = math.random(products)
         local head = requests[id]
         if rest[id] then
            count = count + 1
            head = head .. run .. "-" .. count .. rest[id]
         end
         return head .. '{"stock":' .. math.random(100000, 999999) .. "}"
      end
   end
end

-- Global, so that done() can read it with thread:get.
statuses = {}

function response(status)
   -- A string, because thread:get does not return tables with numeric keys.
   local key = tostring(status)
   statuses[key] = (statuses[key] or 0) + 1
end

function done(summary, latency, requests)
   local counted = {}
   for _, thread in ipairs(threads) do
      for status, count in pairs(thread:get("statuses")) do
         counted[status] = (counted[status] or 0) + count
      end
   end
   local shown = {}
   for status, count in pairs(counted) do
      table.insert(shown, string.format('"%s":%d', status, count))
   end
   local errors = summary.errors
   io.write(string.format(
      '{"requests":%d,"duration":%d,"p50":%d,"p99":%d,"max":%d,'
         .. '"connect":%d,"read":%d,"write":%d,"timeout":%d,"statuses":{%s}}\n',
      summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), latency.max,
      errors.connect, errors.read, errors.write, errors.timeout,
      table.concat(shown, ",")))
end
