// What may not change between a checkpoint and the run that resumes it: the model, how it routes,
// which samples come when and what of them is seen. Tensor names and shapes alone would let another
// head count, rotary base, router or seed pass. The grid, its schedule, ZeRO, recomputation, how
// cut sequences attend, and the factors of the routers' losses may change freely.
#pragma once

#include <string>
#include <vector>

#include "app/deck.h"

namespace pg::app {

// One line a key: "model.heads: 16, was 8". `stored` is the resolved deck in the checkpoint
// `entry`.
std::vector<std::string> resume_differences(const std::string& stored, const Deck& deck,
                                            const std::string& entry);

}  // namespace pg::app
