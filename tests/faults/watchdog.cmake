# Jobs that hang, in launches of their own (FAULTS 3), and jobs that only look like it.
add_executable(watchdog_probe ${CMAKE_CURRENT_LIST_DIR}/watchdog_probe.cpp)
target_link_libraries(watchdog_probe PRIVATE pentagrid_core pg_no_gpu)
set_target_properties(watchdog_probe PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
set(pg_watchdog_scratch ${CMAKE_BINARY_DIR}/tests/scratch/watchdog)
# Of several ranks mpiexec now and then returns 1, having noticed the closed connection first;
# watchdog.sh looks into exit.json.
pg_expect(faults.watchdog_names_an_endless_loop@3 RANKS 3 STATUS failure TIMEOUT 30
  COMMAND watchdog_probe loop ${pg_watchdog_scratch}/loop
  STDOUT "reported"
  STDERR "run.watchdog: no rank came on for " "step 7, barrier #3 on group world: waiting for rank 1 ("
         "not arrived: in work > an endless loop 5 at tests/faults/watchdog_probe.cpp:"
         "ranks 0, 2 (" "arrived: barrier #3 on group world"
  ABSENT "no heartbeat")
pg_expect(faults.watchdog_names_a_message_that_nobody_sends@2 RANKS 2 STATUS failure TIMEOUT 30
  COMMAND watchdog_probe message ${pg_watchdog_scratch}/message
  STDERR "recv from rank 0 on group world: waiting for rank 0 (" "not arrived: in no named place")
pg_expect(faults.watchdog_names_who_gives_no_minimum@2 RANKS 2 STATUS failure TIMEOUT 30
  COMMAND watchdog_probe minimum ${pg_watchdog_scratch}/minimum
  STDERR "MPI_Iallreduce #1 on group later minimum: waiting for rank 1 ("
         "not arrived: in no named place")
pg_expect(faults.watchdog_names_a_file_to_a_rank_alone RANKS 1 STATUS 6 TIMEOUT 30
  COMMAND watchdog_probe file ${pg_watchdog_scratch}/file
  STDERR "run.watchdog: the rank did not come on for "
         "): reading a/file/on/a/dead/server.h5, in loading at tests/faults/watchdog_probe.cpp:")
# Storage that hangs holds up the thread that beats; one without files speaks for its rank.
pg_expect(faults.watchdog_survives_hung_storage RANKS 1 STATUS 6 TIMEOUT 30
  COMMAND watchdog_probe storage ${pg_watchdog_scratch}/storage
  STDERR "watchdog did not answer for " "run.watchdog: the rank did not come on for "
         "in saving at tests/faults/watchdog_probe.cpp:"
  ABSENT "reported")
pg_expect(faults.watchdog_lets_hung_storage_be_while_the_rank_comes_on RANKS 1 STATUS 0 TIMEOUT 30
  COMMAND watchdog_probe slow_storage ${pg_watchdog_scratch}/slow_storage ABSENT "run.watchdog")
# What takes longer than the limit and notes progress is no hang. Its control is the endless loop.
pg_expect(faults.watchdog_lets_slow_work_be@3 RANKS 3 STATUS 0 TIMEOUT 30
  COMMAND watchdog_probe slow ${pg_watchdog_scratch}/slow ABSENT "run.watchdog" "reported")
pg_expect(faults.watchdog_needs_its_folder@2 RANKS 2 STATUS 5 TIMEOUT 30
  COMMAND watchdog_probe slow /proc/nowhere STDERR "run.output: /proc/nowhere/.watchdog")

add_test(NAME faults.watchdog@3
  COMMAND ${CMAKE_CURRENT_LIST_DIR}/watchdog.sh $<TARGET_FILE:pentagrid>
          ${CMAKE_BINARY_DIR}/tests/scratch/watchdog_program ${MPIEXEC_EXECUTABLE}
          ${MPIEXEC_NUMPROC_FLAG} 3)
add_test(NAME faults.run_lock
  COMMAND ${CMAKE_CURRENT_LIST_DIR}/run_lock.sh $<TARGET_FILE:pentagrid>
          ${CMAKE_BINARY_DIR}/tests/scratch/run_lock_program)
set_tests_properties(faults.watchdog@3 PROPERTIES TIMEOUT 120 LABELS np3 PROCESSORS 3
  ENVIRONMENT "${pg_test_environment}")
set_tests_properties(faults.run_lock PROPERTIES TIMEOUT 60 LABELS np1
  ENVIRONMENT "${pg_test_environment}")
