# The command `verify`: how it cuts a deck, what it finds, and the program as its user runs it.
pg_test(app.verify_cut SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/verify_cut_test.cpp)
pg_test(app.verify SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/verify_test.cpp
                           ${CMAKE_CURRENT_SOURCE_DIR}/verify_axes_test.cpp RANKS 1 4 8 TIMEOUT 180)

add_test(NAME app.verify_program@4
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/verify.sh $<TARGET_FILE:pentagrid>
          ${CMAKE_BINARY_DIR}/tests/scratch/verify_program ${MPIEXEC_EXECUTABLE}
          ${MPIEXEC_NUMPROC_FLAG} 4)
set_tests_properties(app.verify_program@4 PROPERTIES TIMEOUT 120 LABELS np4 PROCESSORS 4
  ENVIRONMENT "${pg_test_environment}")
