# The save engine: its pure parts, and saves beside the work.
pg_test(io.file_runs SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/file_runs_test.cpp)
pg_test(io.checkpoint_async SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/checkpoint_async_test.cpp RANKS 1 3)
pg_test(io.checkpoint_storage SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/checkpoint_storage_test.cpp)
