pg_test(app.async_save SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/async_save_test.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/taken_over_test.cpp RANKS 2 TIMEOUT 120)
