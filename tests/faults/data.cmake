pg_test(faults.token_file SOURCES ${CMAKE_CURRENT_LIST_DIR}/token_file_damage_test.cpp)
pg_test(faults.token_file_hdf5 SOURCES ${CMAKE_CURRENT_LIST_DIR}/token_file_hdf5_test.cpp)
