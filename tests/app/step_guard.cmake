# Which steps get no update.
pg_test(app.step_guard SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/step_guard_test.cpp)
