# A run in two halves on two grids; validation on all of them.
set(pg_grid_sources ${CMAKE_CURRENT_SOURCE_DIR}/saved_run.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/../parity/matrix.cpp ${CMAKE_CURRENT_SOURCE_DIR}/../parity/parity.cpp)
pg_test(app.reshard SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/reshard_test.cpp ${pg_grid_sources}
        RANKS 8 TIMEOUT 300)
