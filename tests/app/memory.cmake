# Planned bytes against a run's and against formulas; 3 ranks: sizes that do not divide.
set(pg_memory_formula ${CMAKE_SOURCE_DIR}/tests/harness/memory_formula.cpp
                      ${CMAKE_SOURCE_DIR}/tests/harness/memory_layers.cpp)
pg_test(app.memory_plan SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/memory_plan_test.cpp
                                ${pg_memory_formula} RANKS 3 4 TIMEOUT 180)
pg_test(app.memory_axes SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/memory_axes_test.cpp
                                ${pg_memory_formula} RANKS 3 4 TIMEOUT 180)
pg_test(app.traffic_report SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/traffic_report_test.cpp RANKS 4)
# Bytes of long sequences: linear in the length, 1/cp, nothing of length x length.
pg_test(app.long_sequence SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/long_sequence_test.cpp RANKS 4
        TIMEOUT 180)
