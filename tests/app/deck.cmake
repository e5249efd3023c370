pg_test(app.schema SOURCES schema_test.cpp schema_checks_test.cpp schema_grid_test.cpp
        schema_experts_test.cpp resume_check_test.cpp help_test.cpp)
pg_test(app.read_deck SOURCES read_deck_test.cpp RANKS 2 3)
