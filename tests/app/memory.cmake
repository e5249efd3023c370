# Planned bytes against a run's and against formulas; 3 ranks: sizes that do not divide.
pg_test(app.memory_plan SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/memory_plan_test.cpp
                                ${CMAKE_SOURCE_DIR}/tests/harness/memory_formula.cpp RANKS 3 4
                                TIMEOUT 180)
pg_test(app.traffic_report SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/traffic_report_test.cpp RANKS 4)
