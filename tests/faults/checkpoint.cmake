# Damage to checkpoints, and saves that fail (tests/faults/on_small_disk.sh makes a disk of 1 MiB).
pg_test(faults.checkpoint_full_disk SOURCES checkpoint_full_disk_test.cpp RANKS 1 2 3 4)
pg_test(faults.checkpoint_damage SOURCES checkpoint_damage_test.cpp)
pg_test(faults.checkpoint_hostile SOURCES checkpoint_hostile_test.cpp)
foreach(ranks 1 2 3 4)
  set(test faults.checkpoint_full_disk.tmpfs@${ranks})
  add_test(NAME ${test} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/on_small_disk.sh 1m
    ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks}
    $<TARGET_FILE:test_faults_checkpoint_full_disk>)
  get_test_property(faults.checkpoint_full_disk@1 ENVIRONMENT environment)
  set_tests_properties(${test} PROPERTIES TIMEOUT 120 LABELS "np${ranks}" PROCESSORS ${ranks}
    SKIP_RETURN_CODE 77 ENVIRONMENT "${environment}")
endforeach()
