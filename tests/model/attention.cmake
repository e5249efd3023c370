pg_test(model.attention TIMEOUT 180 SOURCES kernels/attention_test.cpp
  kernels/attention_gradient_test.cpp kernels/attention_parts_test.cpp
  kernels/attention_mask_test.cpp kernels/attention_reference.cpp)
pg_test(model.rope SOURCES kernels/rope_test.cpp)
pg_test(model.simd_math SOURCES kernels/simd_math_test.cpp)
