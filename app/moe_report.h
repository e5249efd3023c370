// What a step's routers did, for metrics.jsonl.
#pragma once

#include <cstdint>
#include <string>

#include "model/optim/router_balance.h"

namespace pg::app {

// Empty without experts, else `, "moe": {...}`:
//   dropped         share of the pairs (token, expert) that found no place
//   blocks          the blocks with experts, in whose order the rest lies
//   balance         E sum_e f_e P_e, unweighted, mean over sequences; 1 when all experts are alike
//   z               mean over tokens of the squared log-sum-exp of the router's logits
//   load            the tokens that asked for each expert
std::string moe_json(const model::MoeReport& moe, std::int64_t sequences, std::int64_t seq);

}  // namespace pg::app
