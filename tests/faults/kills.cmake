# SIGKILL: in each phase of a save, and at random moments of a run that is restarted each time
# (`make soak` does that 50 times).
add_executable(killed_save_probe ${CMAKE_CURRENT_LIST_DIR}/killed_save_probe.cpp)
target_include_directories(killed_save_probe PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(killed_save_probe PRIVATE pentagrid_core pg_no_gpu GTest::gtest)
target_compile_definitions(killed_save_probe PRIVATE PG_BINARY_DIR="${CMAKE_BINARY_DIR}")
set_target_properties(killed_save_probe PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
foreach(turn 0 1)
  set(test faults.killed_in_each_phase_of_a_save.${turn}@2)
  add_test(NAME ${test} COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/killed_save.sh
    $<TARGET_FILE:killed_save_probe> ${CMAKE_BINARY_DIR}/tests/scratch/killed_save_${turn} ${turn}
    2 ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG})
  set_tests_properties(${test} PROPERTIES TIMEOUT 240 LABELS np2 PROCESSORS 2
    ENVIRONMENT "${pg_test_environment}")
endforeach()
set_property(TEST faults.killed_in_each_phase_of_a_save.1@2 APPEND PROPERTY LABELS full)

# pg_soak(NAME KILLS INSIDE SEED SABOTAGE)
function(pg_soak name kills inside seed sabotage)
  add_test(NAME faults.${name}@4 COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/soak.sh
    $<TARGET_FILE:pentagrid> ${CMAKE_BINARY_DIR}/tests/scratch/${name} ${kills} ${inside} 192 ${seed}
    ${sabotage} ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} 4)
  set_tests_properties(faults.${name}@4 PROPERTIES TIMEOUT 300 LABELS np4 PROCESSORS 4
    ENVIRONMENT "${pg_test_environment}")
endfunction()
pg_soak(killed_run_ends_with_the_same_digits 6 2 1 none)
# The controls: what the script must find.
pg_soak(killed_run_that_lost_a_checkpoint_is_found 3 1 2 drop)
pg_soak(killed_run_with_other_digits_is_found 1 0 3 digits)
set_property(TEST faults.killed_run_that_lost_a_checkpoint_is_found@4 PROPERTY
  PASS_REGULAR_EXPRESSION "FAILED: it resumed at step [0-9]+, and the newest checkpoint is of step [0-9]+")
set_property(TEST faults.killed_run_with_other_digits_is_found@4 PROPERTY
  PASS_REGULAR_EXPRESSION "FAILED: the losses differ")
