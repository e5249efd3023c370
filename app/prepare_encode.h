// The streaming half of `prepare`: documents through the tokenizer into token files, on several
// threads and in bounded memory, in the order of the text.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "io/text_source.h"
#include "io/token_file.h"
#include "io/tokenizer.h"

namespace pg::app {

struct EncodeCounts {
  std::int64_t train_bytes = 0, valid_bytes = 0;  // of text, after repair
  std::int64_t replaced = 0, repaired_files = 0;  // ill-formed UTF-8 sequences
  std::int64_t empty_files = 0;
  std::string first_repaired;
};

std::int64_t total_bytes(std::span<const io::TextFile> files);  // on disk

// `valid` null: all goes to `train`. Else a 64th is held out, see run_prepare. `threads` 0: as many
// as OpenMP would take. Finishes neither file.
EncodeCounts encode_text(std::span<const io::TextFile> files, const io::Tokenizer& tokenizer,
                         std::int64_t threads, io::TokenFileWriter& train,
                         io::TokenFileWriter* valid);

}  // namespace pg::app
