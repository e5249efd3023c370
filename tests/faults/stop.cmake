# Stops of the program itself, by signals, a file and the wall limit.
add_test(NAME faults.stop@2
  COMMAND ${CMAKE_CURRENT_LIST_DIR}/stop.sh $<TARGET_FILE:pentagrid>
          ${CMAKE_BINARY_DIR}/tests/scratch/faults_stop ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG})
set_tests_properties(faults.stop@2 PROPERTIES TIMEOUT 180 LABELS np2 PROCESSORS 2
  ENVIRONMENT "${pg_test_environment}")
# Data that fails under one rank.
pg_test(faults.data_on_one_rank SOURCES ${CMAKE_CURRENT_LIST_DIR}/data_on_one_rank_test.cpp
        RANKS 2 3)
