pg_test(io.deck SOURCES deck_reader_test.cpp deck_toml_test.cpp)
