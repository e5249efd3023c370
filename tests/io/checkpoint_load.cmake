# Finding, verifying and loading checkpoints with the work shared out.
pg_test(io.checkpoint_reads SOURCES ${CMAKE_CURRENT_LIST_DIR}/checkpoint_reads_test.cpp)
pg_test(io.checkpoint_load SOURCES ${CMAKE_CURRENT_LIST_DIR}/checkpoint_load_test.cpp RANKS 1 2 4)
