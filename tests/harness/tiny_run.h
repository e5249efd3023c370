// Tiny decks over made-up token files, and training them in-process on any communicator: what the
// parity, restart and trainer tests share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "app/trainer.h"
#include "comm/mpi_session.h"

namespace pg::testing {

// A folder that only this test program uses, the same on all its ranks; what lies there stays.
std::filesystem::path scratch_folder(const std::string& name);

// Collective: a folder that does not exist, for the output of a test's run; launches of another
// number of ranks have their own. What an earlier test left there goes once all ranks are done with
// it.
std::string no_folder(const comm::Communicator& world, const std::string& test,
                      const std::string& name);

// A token file of `tokens` ids below `vocab` with learnable structure (each id tends to follow from
// the one before), made by rank 0 of `world`; the others wait.
std::filesystem::path make_tokens(const comm::Communicator& world, const std::string& name,
                                  std::int64_t tokens, std::int64_t vocab, std::int64_t seed);

// The same as many documents of 1 to `longest` tokens, a quarter of them of one token.
std::filesystem::path make_documents(const comm::Communicator& world, const std::string& name,
                                     std::int64_t tokens, std::int64_t vocab, std::int64_t seed,
                                     std::int64_t longest);

// Llama-style: RMSNorm, rotary, SwiGLU, 6 query heads on 2 KV heads; odd sizes. GPT-2-style:
// LayerNorm, learned positions, GELU, biases, dropout 0.1, tied. Both 2 layers deep, vocabulary 61,
// seq 12.
app::Deck llama_deck(const std::filesystem::path& tokens, DType precision);
app::Deck gpt2_deck(const std::filesystem::path& tokens, DType precision);

struct Trace {
  std::vector<double> losses, grad_norms;
  std::vector<double> aux_losses, dropped;  // of routers: their losses, shares of dropped pairs
  // Gradients of the first step by parameter, as they enter the optimizer (summed over replicas).
  std::map<std::string, std::vector<double>> first_gradients;
  // Exact weights and moments by their checkpoint names, after the last step.
  std::map<std::string, std::vector<double>> state;
};

// Collective: what a checkpoint would hold, put together from all ranks.
std::map<std::string, std::vector<double>> logical_state(comm::ProcessGrid& grid,
                                                         app::Trainer& trainer);

// Trains `deck` for `steps` steps on the grid that fits `world`. Collective over `world`.
Trace train(const comm::Communicator& world, const app::Deck& deck, std::int64_t steps,
            const model::Sabotage& sabotage = {});

// Relative Frobenius distance |a - b| / max(|b|, floor).
double deviation(const std::vector<double>& a, const std::vector<double>& b, double floor = 0.0);
double norm(const std::vector<double>& x);

}  // namespace pg::testing
