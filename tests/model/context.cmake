# Parts of sequences: who holds what, who computes what. Pure code, no ranks.
pg_test(model.context SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/sequence_parts_test.cpp
                              ${CMAKE_CURRENT_SOURCE_DIR}/context_balance_test.cpp)
