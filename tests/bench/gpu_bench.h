// What the two benchmarks of a GPU share: their arguments, lines of JSON that a table is made of
// later, and the data sheets that floors are computed from.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "comm/error.h"
#include "io/run_folder.h"

namespace pg::bench {

// Dense bf16 products and memory, as the vendor states them for the SXM parts; memory is what the
// driver reports. A measured ceiling is lower: products of 8192^3 and copies are measured beside.
struct Card {
  const char* name;
  double flops;         // a second
  double bytes;         // a second
  std::int64_t memory;  // bytes
};
inline constexpr std::array<Card, 2> kCards{{{"H100", 989e12, 3.35e12, std::int64_t{81559} << 20},
                                             {"H200", 989e12, 4.8e12, std::int64_t{143771} << 20}}};

// The least time that this arithmetic and these bytes take on a card, and which of them bounds it.
struct Floor {
  double seconds = 0.0;
  const char* bound = "";
};
inline Floor floor_of(const Card& card, double flops, double bytes) {
  const double compute = flops / card.flops, memory = bytes / card.bytes;
  return compute >= memory ? Floor{compute, "FLOP"} : Floor{memory, "bytes"};
}

inline double median(std::vector<double> x) {
  PG_ASSERT(!x.empty(), "a median of {} numbers", x.size());
  std::sort(x.begin(), x.end());
  return x.size() % 2 == 1 ? x[x.size() / 2] : 0.5 * (x[x.size() / 2 - 1] + x[x.size() / 2]);
}
inline double least(const std::vector<double>& x) {
  return *std::min_element(x.begin(), x.end());
}
inline double most(const std::vector<double>& x) {
  return *std::max_element(x.begin(), x.end());
}

// One flat object: {"key": value, ...}.
class JsonLine {
 public:
  JsonLine& text(const char* key, const std::string& value) {
    return raw(key, io::json_string(value));
  }
  JsonLine& number(const char* key, double value) { return raw(key, io::json_number(value)); }
  JsonLine& count(const char* key, std::int64_t value) { return raw(key, std::to_string(value)); }
  // Appended to `file`, unless that is empty.
  void append_to(const std::string& file) const {
    if (file.empty()) return;
    std::FILE* const out = std::fopen(file.c_str(), "a");
    if (out == nullptr) throw fail(ExitCode::kSave, "{} cannot be written", file);
    std::fprintf(out, "{%s}\n", body_.c_str());
    if (std::fclose(out) != 0) throw fail(ExitCode::kSave, "{} cannot be written", file);
  }

 private:
  JsonLine& raw(const char* key, const std::string& value) {
    body_ += (body_.empty() ? "\"" : ", \"") + std::string(key) + "\": " + value;
    return *this;
  }
  std::string body_;
};

struct Arguments {
  bool tiny = false;    // small sizes: does it run at all?
  bool floors = false;  // only the tables on paper: no GPU is needed
  bool list = false;    // only the names of the cases
  std::string out;      // where lines of JSON go
  std::int64_t steps = 12;
  std::vector<std::string> names;  // of the cases to run
};

inline Arguments read_arguments(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] {
      if (++i == argc) throw fail(ExitCode::kDeck, "{} takes a value", word);
      return std::string(argv[i]);
    };
    if (word == "--tiny") {
      a.tiny = true;
    } else if (word == "--floors") {
      a.floors = true;
    } else if (word == "--list") {
      a.list = true;
    } else if (word == "--out") {
      a.out = value();
    } else if (word == "--steps") {
      a.steps = std::max(1L, std::strtol(value().c_str(), nullptr, 10));
    } else if (word.starts_with("-")) {
      throw fail(ExitCode::kDeck, "{} is no option (--tiny, --floors, --list, --out, --steps)",
                 word);
    } else {
      a.names.push_back(word);
    }
  }
  return a;
}

}  // namespace pg::bench
