# Saving, listing, inspecting and loading checkpoints.
pg_test(io.checkpoint_manifest SOURCES checkpoint_manifest_test.cpp)
pg_test(io.checkpoint_round_trip SOURCES checkpoint_round_trip_test.cpp RANKS 1 2 3 4)
pg_test(io.checkpoint_entries SOURCES checkpoint_entries_test.cpp)
pg_test(io.checkpoint_inspect SOURCES checkpoint_inspect_test.cpp)
