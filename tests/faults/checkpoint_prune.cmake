pg_test(faults.checkpoint_prune SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/checkpoint_prune_test.cpp)
