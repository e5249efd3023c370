// XXH3-128 of a stream of bytes, as 32 hex digits: the digest that token files carry.
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "comm/error.h"

namespace pg::io {

class Xxh3 {
 public:
  Xxh3() : state_(XXH3_createState()) {
    PG_ASSERT(state_ != nullptr, "out of memory");
    XXH3_128bits_reset(state_.get());
  }
  void update(const void* data, std::size_t bytes) {
    if (bytes > 0) XXH3_128bits_update(state_.get(), data, bytes);
  }
  void update(const std::string& text) { update(text.data(), text.size()); }
  std::string hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace pg::io
