// The script that counts failed attempts in Redis, with the clock of Redis only. The rules are those of attempts.ts.
import { script } from '../replicas/shared-store.js';
import { FIRST_WAIT, LONGEST_WAIT, MOST_BEYOND } from './attempts.js';

/**
 * The effect on the budgets:
 *
 * - `take`, `failed`, `give-back` and `clear` as in `AttemptStore`;
 * - `merge` only adds the counts that a replica knows.
 */
export type AttemptAct = 'take' | 'failed' | 'give-back' | 'clear' | 'merge';

/** Arguments for each key. */
export const KEY_ARGUMENTS = 4;

/**
 * Keys: the budgets. Arguments: the act, `forget` (ms), then for each budget: free failures, failures that the replica knows (''
 * for none), time (ms) since the last of them, and failures that Redis has not counted yet.
 *
 * A budget is a hash: failures, the time of the last one, whether an attempt was refused since.
 *
 * Answer: the position of the budget that must wait (0: none), the wait (ms), 1 if it is the first refusal of this wait, then for
 * each budget: failures, time (ms) since the last one, 1 if an attempt was refused.
 */
export const COUNT_ATTEMPT = script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local act, forget = ARGV[1], tonumber(ARGV[2])
local counts = {}

local function save(i)
  local count = counts[i]
  redis.call('HSET', KEYS[i], 'failures', string.format('%.17g', count.failures), 'at', count.at, 'refused', count.refused)
  local forgotten = math.max(count.failures * forget / count.free, ${LONGEST_WAIT}) + 1000
  redis.call('PEXPIRE', KEYS[i], math.ceil(forgotten))
end

for i = 1, #KEYS do
  local first = 3 + (i - 1) * ${KEY_ARGUMENTS}
  local free, floor, more = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 3])
  local known = redis.call('HMGET', KEYS[i], 'failures', 'at', 'refused')
  local count = { free = free, failures = tonumber(known[1]) or 0, at = tonumber(known[2]), refused = tonumber(known[3]) or 0 }
  if count.at then count.at = math.min(count.at, now) end
  if floor then
    count.failures = math.max(count.failures, floor)
    count.at = math.max(count.at or 0, now - tonumber(ARGV[first + 2]))
  end
  count.failures = math.min(count.failures + more, free + ${MOST_BEYOND})
  count.at = count.at or now
  counts[i] = count
  if floor or more > 0 then save(i) end
end

local place, longest, isFirst = 0, 0, 0
if act == 'take' then
  for i, count in ipairs(counts) do
    local beyond = math.ceil(count.failures) - count.free
    if beyond >= 0 then
      local left = count.at + math.min(${FIRST_WAIT} * 2 ^ beyond, ${LONGEST_WAIT}) - now
      if left > longest then place, longest = i, left end
    end
  end
  if place > 0 then
    isFirst = 1 - counts[place].refused
    counts[place].refused = 1
    save(place)
  end
end
for i, count in ipairs(counts) do
  if (act == 'take' and place == 0) or (act == 'failed' and count.failures > 0) then
    local left = math.max(0, count.failures - (now - count.at) * count.free / forget)
    if act == 'take' then left, count.refused = left + 1, 0 end
    count.failures, count.at = math.min(left, count.free + ${MOST_BEYOND}), now
    save(i)
  elseif act == 'give-back' and count.failures > 1 then
    count.failures = count.failures - 1
    save(i)
  elseif act == 'give-back' or act == 'clear' then
    count.failures = 0
    redis.call('DEL', KEYS[i])
  end
end

local answer = { place, tostring(longest), isFirst }
for _, count in ipairs(counts) do
  answer[#answer + 1] = string.format('%.17g', count.failures)
  answer[#answer + 1] = tostring(now - count.at)
  answer[#answer + 1] = count.refused
end
return answer
`);
