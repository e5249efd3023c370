// What may not change between a checkpoint and the run that resumes it, unless checkpoint.override
// names it: the model and how it routes, the data and its tokenizer, which samples come when and
// what of them is seen, the optimizer and the course of the learning rate. Tensor names and shapes
// alone would let another head count, rotary base, router, seed or schedule pass. The grid, its
// schedule, ZeRO, recomputation, micro-batches, devices, saving and logging may change freely.
#pragma once

#include <string>
#include <vector>

#include "app/deck.h"
#include "io/token_file.h"

namespace pg::app {

// The data that a run trains on.
struct DataIdentity {
  std::string fingerprint;  // io::TokenFile's
  std::string tokenizer;    // tokenizer_identity(); empty: not known
};

// "bytes", or the digest of the SentencePiece model that made the ids.
std::string tokenizer_identity(const io::TokenFile& file);

// A line each: "model.heads: 16, was 8".
struct Differences {
  std::vector<std::string> refused;
  std::vector<std::string> overridden;  // which checkpoint.override names
  std::vector<std::string> may_name;    // keys in `refused` that it could name
  std::vector<std::string> idle;        // keys it names that do not differ: a job script keeps them
};

// Between the checkpoint `entry`, with its resolved deck and its data, and the run of `deck` on
// `data`. Error(kCheckpoint) when the stored deck does not read.
Differences compare_runs(const std::string& stored_deck, const DataIdentity& stored_data,
                         const Deck& deck, const DataIdentity& data, const std::string& entry);

// Why checkpoint.override cannot name this key; empty: it can.
std::string why_no_override(const std::string& key);

}  // namespace pg::app
