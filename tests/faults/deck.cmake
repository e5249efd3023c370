# Runs the executable itself, so it stays out of MPI.
pg_test(faults.deck SOURCES deck_fault_test.cpp)
add_dependencies(test_faults_deck pentagrid)
target_compile_definitions(test_faults_deck PRIVATE
  PG_MPIEXEC="${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG}")
