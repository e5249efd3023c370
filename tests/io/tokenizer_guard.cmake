pg_test(io.tokenizer_guard SOURCES ${CMAKE_CURRENT_LIST_DIR}/tokenizer_guard_test.cpp)
