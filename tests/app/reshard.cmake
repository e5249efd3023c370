# From grid to grid: checkpoints, whole runs, validation.
set(pg_grid_sources ${CMAKE_CURRENT_SOURCE_DIR}/saved_run.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/../parity/matrix.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/../parity/axes.cpp ${CMAKE_CURRENT_SOURCE_DIR}/../parity/parity.cpp)
pg_test(app.reshard SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/reshard_test.cpp ${pg_grid_sources}
        RANKS 8 TIMEOUT 300)
pg_test(app.reshard_axes
        SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/reshard_axes_test.cpp ${pg_grid_sources}
        RANKS 8 TIMEOUT 300)
pg_test(app.between_grids
        SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/validation_test.cpp
                ${CMAKE_CURRENT_SOURCE_DIR}/resume_grids_test.cpp ${pg_grid_sources}
        RANKS 8 TIMEOUT 300)
