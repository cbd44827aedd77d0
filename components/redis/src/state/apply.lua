-- Applies writes to one or several keys: all of them, or none.
--
-- KEYS: the key of each write. ARGV: "write", or "check" to change nothing; then for each write six values:
--   form     "hash" or "json"
--   verb     "set" or "delete"
--   etag     the version that must be there, or "0"
--   mark     "1" to record that later writes must bring a version
--   expiry   seconds, "" to leave what is there, "none" to end it
--   data
-- Returns 0, or the number of the first write whose etag was refused; then nothing has changed.

local WIDTH = 6
local known = {}

-- What a key holds, the writes before this one included.
local function look(key, form)
  local seen = known[key]
  if seen and seen.form == form then
    return seen
  end
  local fresh = { form = form }
  if seen then
    fresh.foreign = true
  elseif form == 'json' then
    local version = redis.pcall('JSON.GET', key, '.version')
    if type(version) == 'table' then
      fresh.foreign = true
    else
      local mark = redis.pcall('JSON.GET', key, '.first-write')
      fresh.version = version
      fresh.mark = mark and type(mark) ~= 'table'
    end
  else
    local fields = redis.pcall('HMGET', key, 'version', 'first-write')
    if fields.err then
      fresh.foreign = true
    else
      fresh.version = fields[1]
      fresh.mark = fields[2]
    end
  end
  if fresh.version == '' then
    fresh.version = false
    fresh.foreign = true
  end
  known[key] = fresh
  return fresh
end

local versions = {}
for i, key in ipairs(KEYS) do
  local at = (i - 1) * WIDTH + 1
  local form, verb, etag, mark = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local seen = look(key, form)
  local fits = not seen.version or seen.version == etag
  if verb == 'set' then
    if not fits and (etag ~= '0' or seen.mark) then
      return i
    end
    local before = seen.version
    if not before then
      before = form == 'json' and etag or '0'
    end
    if not string.match(before, '^%-?%d+$') then
      return redis.error_reply('ERR the version of the value is not an integer')
    end
    versions[i] = { after = string.format('%.0f', tonumber(before) + 1), foreign = seen.foreign }
    seen.version = versions[i].after
    seen.foreign = false
    -- A document is replaced as a whole, a hash keeps its other fields.
    seen.mark = mark == '1' or (form == 'hash' and seen.mark)
  else
    if not fits and etag ~= '0' then
      return i
    end
    seen.version, seen.mark, seen.foreign = false, false, false
  end
end

if ARGV[1] == 'check' then
  return 0
end

for i, key in ipairs(KEYS) do
  local at = (i - 1) * WIDTH + 1
  local form, verb, mark, expiry, data =
    ARGV[at + 1], ARGV[at + 2], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  if verb == 'delete' then
    redis.call('DEL', key)
  else
    if versions[i].foreign then
      redis.call('DEL', key)
    end
    if form == 'json' then
      redis.call('JSON.SET', key, '$', data)
      if mark == '1' then
        redis.call('JSON.SET', key, '.first-write', '0')
      end
      redis.call('JSON.SET', key, '.version', versions[i].after)
    else
      redis.call('HSET', key, 'data', data)
      if mark == '1' then
        redis.call('HSET', key, 'first-write', '0')
      end
      redis.call('HINCRBY', key, 'version', '1')
    end
    if expiry == 'none' then
      redis.call('PERSIST', key)
    elseif expiry ~= '' then
      redis.call('EXPIRE', key, expiry)
    end
  end
end
return 0
