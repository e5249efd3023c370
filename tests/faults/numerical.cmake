# Numbers that go wrong: gradients and losses that are not finite, spikes, copies of weights that
# differ.
set(pg_matrix_sources ${CMAKE_CURRENT_SOURCE_DIR}/../parity/matrix.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/../parity/axes.cpp ${CMAKE_CURRENT_SOURCE_DIR}/../parity/parity.cpp)
pg_test(faults.numerical_skip
        SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/numerical_skip_test.cpp ${pg_matrix_sources} RANKS 4)
pg_test(faults.numerical_copies
        SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/numerical_copies_test.cpp ${pg_matrix_sources} RANKS 4)
pg_test(faults.numerical_run SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/numerical_run_test.cpp RANKS 2)
