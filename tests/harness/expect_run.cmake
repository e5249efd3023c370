# Runs a command and compares its end with what is expected: cmake -DCOMMAND=... -DSTATUS=...
# -DSTDOUT=... -DSTDERR=... -DABSENT=... -DLIMIT=... -P expect_run.cmake
# Lists are separated by "|". STATUS: a number, or "failure" for any but 0. STDOUT, STDERR: texts
# that must be there. ABSENT: texts that must not be in either. LIMIT: seconds.
foreach(list COMMAND STDOUT STDERR ABSENT)
  string(REPLACE "|" ";" ${list} "${${list}}")
endforeach()

execute_process(COMMAND ${COMMAND} RESULT_VARIABLE status OUTPUT_VARIABLE stdout
                ERROR_VARIABLE stderr TIMEOUT ${LIMIT})

set(wrong "")
if(STATUS STREQUAL "failure")
  # Words instead of a number: a signal, or the limit.
  if(NOT status MATCHES "^[0-9]+$" OR status EQUAL 0)
    string(APPEND wrong "status ${status}, expected a failure\n")
  endif()
elseif(NOT status STREQUAL STATUS)
  string(APPEND wrong "status ${status}, expected ${STATUS}\n")
endif()
foreach(stream stdout stderr)
  string(TOUPPER ${stream} expected)
  foreach(text IN LISTS ${expected})
    string(FIND "${${stream}}" "${text}" at)
    if(at EQUAL -1)
      string(APPEND wrong "${stream} lacks: ${text}\n")
    endif()
  endforeach()
endforeach()
foreach(text IN LISTS ABSENT)
  string(FIND "${stdout}${stderr}" "${text}" at)
  if(NOT at EQUAL -1)
    string(APPEND wrong "must not be there: ${text}\n")
  endif()
endforeach()

if(wrong)
  message(FATAL_ERROR "${wrong}--- stdout\n${stdout}\n--- stderr\n${stderr}")
endif()
