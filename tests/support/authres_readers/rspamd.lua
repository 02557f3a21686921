-- rspamd as a reader, by its own unfolding of the field and its own grammar of a result. A line in: an
-- Authentication-Results field in hexadecimal digits. A line out: what it reads of each result, as JSON.
local rspamd_task = require "rspamd_task"
local lua_auth_results = require "lua_auth_results"
local lua_util = require "lua_util"
local ucl = require "ucl"

for line in io.lines() do
  local field = line:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end)
  local _, task = rspamd_task.load_from_string(field .. "From: x@example.org\r\n\r\n", rspamd_config)
  task:process_message()
  local read = {}
  for number, element in ipairs(lua_util.rspamd_str_split(task:get_header("Authentication-Results"), ";")) do
    if number > 1 then
      read[#read + 1] = lua_auth_results.parse_ar_element(lua_util.rspamd_str_trim(element)) or {}
    end
  end
  print(ucl.to_format(read, "json-compact"))
  task:destroy()
end
