# Matrix products, views, parameters and the whole network.
pg_test(model.matmul SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/kernels/matmul_test.cpp)
pg_test(model.network SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/tensor_test.cpp
                                  ${CMAKE_CURRENT_SOURCE_DIR}/param_store_test.cpp
                                  ${CMAKE_CURRENT_SOURCE_DIR}/param_layout_test.cpp
                                  ${CMAKE_CURRENT_SOURCE_DIR}/expert_layout_test.cpp
                                  ${CMAKE_CURRENT_SOURCE_DIR}/moe_network_test.cpp
                                  ${CMAKE_CURRENT_SOURCE_DIR}/network_test.cpp)
