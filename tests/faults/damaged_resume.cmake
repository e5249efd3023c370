# Checkpoints that are damaged, missing or foreign, on the program.
foreach(ranks 1 2)
  pg_launch(command ${ranks} $<TARGET_FILE:pentagrid>)
  list(REMOVE_ITEM command $<TARGET_FILE:pentagrid>)
  set(amount some)
  if(ranks EQUAL 1)
    set(amount all)
  endif()
  add_test(NAME faults.damaged_resume@${ranks}
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/damaged_resume.sh $<TARGET_FILE:pentagrid>
            ${CMAKE_BINARY_DIR}/tests/scratch/damaged_resume_np${ranks} ${amount} ${command})
  set_tests_properties(faults.damaged_resume@${ranks} PROPERTIES TIMEOUT 180 LABELS "np${ranks}"
    PROCESSORS ${ranks} ENVIRONMENT "${pg_test_environment}")
endforeach()
