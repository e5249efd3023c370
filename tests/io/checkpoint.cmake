# Saving, listing and loading checkpoints.
pg_test(io.checkpoint_slabs SOURCES checkpoint_slabs_test.cpp)
pg_test(io.checkpoint_round_trip SOURCES checkpoint_round_trip_test.cpp RANKS 1 2 3 4)
