// The script that exchanges what replicas took from their shared buckets. It runs in Redis and uses only the clock of Redis.
import { script } from './shared-store.js';

/** The number of arguments before those of the first bucket, and of the arguments of each bucket. */
export const SHARED_ARGUMENTS = 2;
export const BUCKET_ARGUMENTS = 5;

/** A replica counts as present for this long (ms) after its last exchange. */
const PRESENT_FOR = 5_000;

/**
 * A bucket's key is kept for this long (ms) after the bucket is full again. Until then Redis recognises an exchange that is sent
 * again.
 */
const KEPT_FOR = 2_000;

/** The most replicas that one bucket remembers. Each deployment adds some, and a busy bucket is never forgotten. */
const MAX_REMEMBERED = 64;

/**
 * Keys: the epoch, the replicas, then the buckets. Arguments: the replica's id, an epoch for a Redis that has none. Then five for
 * each bucket: taken, the number of this exchange, the most that can be left ('' for no bound), size, refill (ms).
 *
 * A bucket is a hash: what is left, the time of that, and the last exchange of each replica. An exchange that is sent again takes
 * nothing. A bucket without a key is full.
 *
 * Answer: the epoch, the number of replicas, then what is left in each bucket.
 */
export const EXCHANGE = script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local replica = ARGV[1]
redis.call('ZADD', KEYS[2], now, replica)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ${PRESENT_FOR})
redis.call('ZREMRANGEBYSCORE', KEYS[2], now + ${PRESENT_FOR}, '+inf')
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = ARGV[2]
  redis.call('SET', KEYS[1], epoch)
end
local answer = { epoch, redis.call('ZCARD', KEYS[2]) }
for i = 3, #KEYS do
  local first = ${SHARED_ARGUMENTS + 1} + (i - 3) * ${BUCKET_ARGUMENTS}
  local taken, number, bound = tonumber(ARGV[first]), ARGV[first + 1], tonumber(ARGV[first + 2])
  local size, refill = tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])
  local known = redis.call('HMGET', KEYS[i], 'left', 'at', replica)
  local left = tonumber(known[1]) or size
  local passed = math.max(0, now - (tonumber(known[2]) or now))
  left = math.min(size, left + passed * size / refill)
  if bound then left = math.min(left, bound) end
  local isNew = taken > 0 and known[3] ~= number
  if isNew then left = math.max(left - taken, -size) end
  if isNew and not known[3] and redis.call('HLEN', KEYS[i]) > ${MAX_REMEMBERED} then redis.call('DEL', KEYS[i]) end
  local text = string.format('%.6f', left)
  redis.call('HSET', KEYS[i], 'left', text, 'at', now)
  if isNew then redis.call('HSET', KEYS[i], replica, number) end
  redis.call('PEXPIRE', KEYS[i], math.ceil((size - left) * refill / size) + ${KEPT_FOR})
  answer[i] = text
end
return answer
`);
