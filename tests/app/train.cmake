# Training with its files: restarts, metrics, validation, learning-rate schedules.
pg_test(app.restart SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/restart_test.cpp RANKS 1 2 3 TIMEOUT 180)
pg_test(app.train SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/train_test.cpp
                          ${CMAKE_CURRENT_SOURCE_DIR}/lr_schedule_test.cpp RANKS 1 2 TIMEOUT 120)
