// Bytes that one rank of a grid will hold for a deck, known before anything is allocated.
#pragma once

#include <cstdint>

#include "app/deck.h"

namespace pg::app {

struct MemoryPlan {
  std::int64_t weights = 0;
  std::int64_t gradients = 0;
  std::int64_t master = 0;       // fp32 copies of bf16 weights
  std::int64_t moments = 0;      // both of AdamW
  std::int64_t activations = 0;  // high-water mark of one micro-batch
  std::int64_t total = 0;
  std::int64_t parameters = 0;  // of the whole model, each logical element once
};

MemoryPlan plan_memory(const Deck& deck, const comm::GridShape& grid);

}  // namespace pg::app
