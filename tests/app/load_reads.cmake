# How much of a checkpoint each rank of a grid reads.
pg_test(app.load_reads SOURCES ${CMAKE_CURRENT_LIST_DIR}/load_reads_test.cpp
  ${CMAKE_CURRENT_LIST_DIR}/saved_run.cpp ${CMAKE_CURRENT_LIST_DIR}/../parity/matrix.cpp
  ${CMAKE_CURRENT_LIST_DIR}/../parity/axes.cpp ${CMAKE_CURRENT_LIST_DIR}/../parity/parity.cpp
  RANKS 8 TIMEOUT 180)
