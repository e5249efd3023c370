# What io/hdf5_guard.h lets pass, and what it does not.
pg_test(io.hdf5_guard SOURCES ${CMAKE_CURRENT_LIST_DIR}/hdf5_guard_test.cpp
  ${CMAKE_SOURCE_DIR}/tests/fuzz/reseal.cpp)
