pg_test(io.metrics SOURCES ${CMAKE_CURRENT_LIST_DIR}/metrics_test.cpp)
