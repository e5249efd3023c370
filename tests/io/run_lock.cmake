# One job at a time in an output folder.
pg_test(io.run_lock SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/run_lock_test.cpp TIMEOUT 60)
