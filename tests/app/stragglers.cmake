# Slow ranks are named, equal ones are not.
pg_test(app.stragglers SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/stragglers_test.cpp RANKS 4 TIMEOUT 60)
