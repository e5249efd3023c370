#pragma once
#include <cstdint>
#include <vector>
#include "model/config.h"
namespace pg::model {
struct StagePart { std::int64_t first_layer = 0, layers = 0; bool embeds = false, head = false; };
}
