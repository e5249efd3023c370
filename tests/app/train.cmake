# Training with its files: restarts, metrics, validation, learning-rate schedules.
pg_test(app.restart SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/restart_test.cpp RANKS 1 2 3 TIMEOUT 180)
pg_test(app.train SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/train_test.cpp
                          ${CMAKE_CURRENT_SOURCE_DIR}/lr_schedule_test.cpp RANKS 1 2 TIMEOUT 120)

add_test(NAME app.end_to_end@2
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/end_to_end.sh $<TARGET_FILE:pentagrid>
          ${CMAKE_BINARY_DIR}/tests/scratch/end_to_end ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} 2)
set_tests_properties(app.end_to_end@2 PROPERTIES TIMEOUT 180 LABELS np2 PROCESSORS 2
  ENVIRONMENT "${pg_test_environment}")
# Which tokens each rank reads.
pg_test(app.batch_loader SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/batch_loader_test.cpp)
