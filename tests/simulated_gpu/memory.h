// The simulated GPU's memory: a range of addresses that the host may not touch, except as the GPU.
#pragma once

#include <cstddef>

namespace pg::simulated {

// 256-byte aligned, filled with NaNs; null when there is no more.
void* device_allocate(std::size_t bytes);
bool device_free(void* data);  // false: not one of them
bool is_device(const void* data);
std::size_t device_bytes();       // that there are
std::size_t device_bytes_used();  // given out, gaps included

}  // namespace pg::simulated
