// What stands between a SentencePiece model that nobody vouches for and the library, which follows
// the indices inside a model's normalization table wherever they lead. Called before a model is
// loaded.
#pragma once

#include <string>
#include <string_view>

namespace pg::io {

// Error(kData) naming `name` unless the bytes are a whole protobuf message whose pieces have finite
// scores and legal types, and whose normalization tables (a double-array trie of 32-bit units and
// the strings that it leads to) stay inside themselves.
void check_sentencepiece_model(std::string_view model, const std::string& name);

}  // namespace pg::io
