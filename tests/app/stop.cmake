# Stopping: who asks for it and how ranks agree; ranks that a grid has no place for.
pg_test(app.time_left SOURCES ${CMAKE_CURRENT_LIST_DIR}/time_left_test.cpp)
pg_test(app.stop SOURCES ${CMAKE_CURRENT_LIST_DIR}/stop_test.cpp RANKS 1 3)
pg_test(app.idle_ranks SOURCES ${CMAKE_CURRENT_LIST_DIR}/idle_ranks_test.cpp RANKS 3)
pg_test(app.evaluation SOURCES ${CMAKE_CURRENT_LIST_DIR}/evaluation_test.cpp RANKS 1 2)
