# Pipeline schedules and the split of the layers: pure code, no ranks.
pg_test(model.pipeline
  SOURCES pipeline/schedule_test.cpp pipeline/verify_schedule_test.cpp pipeline/simulate_test.cpp
          pipeline/stages_test.cpp pipeline/stream_pool_test.cpp)
