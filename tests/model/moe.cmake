# Expert routing, token moves and grouped products against plain references.
pg_test(model.moe_kernels
  SOURCES kernels/moe_router_test.cpp kernels/moe_choice_test.cpp kernels/moe_tokens_test.cpp
          kernels/grouped_linear_test.cpp kernels/gradient_check.cpp)
