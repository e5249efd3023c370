// Text, and the tokenizer made from it.
#include <array>

#include "io/text_source.h"
#include "io/tokenizer.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace pg::fuzz {

void tokenizer(std::string_view input) {
  done_or_refused({ExitCode::kData}, [&] {
    const io::Tokenizer made(std::string(input), "fuzz.model");
    const std::string_view texts[] = {"", "a", "Hello, world\n\n\tof  tokens \xC3\xA9\xE2\x96\x81",
                                      "\xFF\xFE not UTF-8 \x00 and a zero"};
    for (const auto text : texts) {
      std::vector<std::int32_t> ids;
      made.encode(text, true, ids);
      for (const auto id : ids) require(id >= 0 && id < made.vocab(), "an id outside");
      made.decode(ids);
    }
    const std::array<std::int32_t, 6> ids{-1,
                                          0,
                                          made.end_of_document(),
                                          static_cast<std::int32_t>(made.vocab() - 1),
                                          static_cast<std::int32_t>(made.vocab()),
                                          INT32_MAX};
    made.decode(ids);
  });
}

void text(std::string_view input) {
  // A gzip bomb takes time, not memory: a part of it is enough here.
  constexpr std::size_t kMost = std::size_t{1} << 20;
  const auto path = Scratch::shared().put("text", input);
  const io::TextFile file{path, std::ssize(input)};
  const auto read = [&](std::size_t piece_bytes, bool repair, std::string& whole) {
    return done_or_refused({ExitCode::kData}, [&] {
      io::TextReader reader(file, repair, piece_bytes);
      std::string piece;
      while (whole.size() < kMost && reader.next(piece)) {
        require(!piece.empty(), "an empty piece");
        require(repair || piece.size() <= piece_bytes, "a piece that is too long");
        whole += piece;
      }
    });
  };
  std::string in_small, in_large, repaired, by_hand;
  const bool small = read(16, false, in_small), large = read(4096, false, in_large);
  if (in_small.size() >= kMost || in_large.size() >= kMost) return;
  require(small == large, "whether it is refused depends on the pieces");
  if (!small) return;
  require(in_small == in_large, "the text depends on the pieces");
  require(read(64, true, repaired), "refused when repaired");
  io::repair_utf8(in_large, by_hand);
  require(repaired == by_hand, "the repaired text depends on the pieces");
}

}  // namespace pg::fuzz
