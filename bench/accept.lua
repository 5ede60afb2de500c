-- wrk: every request asks for a mail to an address of its own; one JSON object at the end, times in milliseconds.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  prefix = arguments[1] .. "-" .. number .. "-"
  sent = 0
end

function request()
  sent = sent + 1
  return wrk.format("GET", "/?sendmail=" .. prefix .. sent .. "@example.com")
end

function done(summary, latency, requests)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\n{"answers": %d, "seconds": %f, "refused": %d, "broken": %d, "p50": %f, "p99": %f, "p99.9": %f}\n',
    summary.requests, summary.duration / 1e6, errors.status, broken,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
