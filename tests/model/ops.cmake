# The memory-bound kernels against plain references and finite differences.
pg_test(model.ops
  SOURCES kernels/memory_test.cpp kernels/norm_test.cpp kernels/activation_test.cpp
          kernels/dropout_test.cpp kernels/embedding_test.cpp kernels/cross_entropy_test.cpp
          kernels/cross_entropy_parallel_test.cpp kernels/rerun_test.cpp
          kernels/reduce_test.cpp kernels/adamw_test.cpp kernels/gradient_check.cpp)
