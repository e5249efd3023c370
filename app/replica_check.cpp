#include "app/replica_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

#include "comm/gpu.h"
#include "io/xxh3.h"

namespace pg::app {

namespace {

constexpr std::size_t kPiece = std::size_t{4}
                               << 20;          // bytes of a GPU's weights on the host at once
constexpr std::size_t kDigest = 32;            // characters
constexpr std::size_t kNamed = 8;              // ranks in a message
constexpr const char* kReplicas = "replicas";  // findings over these, and over
constexpr const char* kCopies = "copies";      // tp or pp

// Of each difference the ranks that may be wrong, ascending.
using Suspects = std::vector<std::vector<int>>;

std::vector<int> meet(const std::vector<int>& a, const std::vector<int>& b) {
  std::vector<int> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return both;
}

// Where no majority tells who is wrong, the ranks that are in every difference may: a norm's copies
// over dp and over tp meet in one rank. If these contradict, tp's are of no account: after an
// update they also show what the wrong rank has spread.
std::vector<int> in_all(const Suspects& replicas, const Suspects& copies) {
  const auto common = [](const Suspects& all) {
    auto ranks = all.empty() ? std::vector<int>{} : all.front();
    for (const auto& others : all) ranks = meet(ranks, others);
    return ranks;
  };
  if (replicas.empty()) return common(copies);
  const auto both = meet(common(replicas), common(copies));
  return both.empty() ? common(replicas) : both;
}

}  // namespace

ReplicaCheck::ReplicaCheck(const model::ParamStore& params, comm::ProcessGrid& grid,
                           model::Groups groups)
    : params_(params), grid_(grid), groups_(std::move(groups)) {
  const auto& layout = params.layout();
  Copies dense{groups_.replicas.get(), {}}, experts{groups_.expert_replicas.get(), {}},
      tensor{groups_.tensor.get(), {}}, kv{groups_.kv_copies.get(), {}},
      ends{groups_.ends.get(), {}};
  const auto add = [&](Item item, const std::vector<Copies*>& to) {
    bool copied = false;
    for (auto* copies : to) {
      if (copies->group->size() == 1) continue;
      copies->items.push_back(items_.size());
      copied = true;
    }
    if (copied) items_.push_back(item);
  };
  for (std::size_t id = 0; id < params.table().size(); ++id) {
    if (!layout.part(id).held) continue;
    const auto& spec = params.table()[id];
    // Copies of the same piece: their other coordinates are equal.
    std::vector<Copies*> of_piece;
    if (spec.cut == model::TensorCut::kNone) of_piece.push_back(&tensor);
    if (spec.cut == model::TensorCut::kKvRows) of_piece.push_back(&kv);
    if (layout.tied() && spec.place == model::ParamTable::kTokenPlace) of_piece.push_back(&ends);
    auto of_all = of_piece;
    of_all.push_back(layout.is_experts(spec.place) ? &experts : &dense);
    const auto number = static_cast<std::int64_t>(id);
    const bool apart = params.gathers_weights() || !params.kept_rounded(id).empty();
    if (!params.gathers_weights()) add({Item::What::kWeights, number}, of_all);
    if (apart) add({Item::What::kExact, number}, layout.shards(spec.place) > 1 ? of_piece : of_all);
  }
  if (layout.rank_config().moe.bias_update > 0.0) {
    for (const auto block : layout.expert_blocks()) {
      add({Item::What::kRouterBias, block}, {&dense, &tensor});
    }
  }
  copies_ = {dense, experts, tensor, kv, ends};
}

model::TensorView ReplicaCheck::view(const Item& item) const {
  if (item.what == Item::What::kRouterBias) return params_.router_bias(item.id);
  const auto id = static_cast<std::size_t>(item.id);
  return item.what == Item::What::kExact ? params_.kept_exact(id) : params_.weight(id);
}

std::string ReplicaCheck::name(const Item& item) const {
  if (item.what == Item::What::kRouterBias) return model::ParamTable::router_bias_name(item.id);
  const auto& name = params_.table()[static_cast<std::size_t>(item.id)].name;
  return item.what == Item::What::kExact ? name + " (exact values)" : name;
}

std::int64_t ReplicaCheck::bytes() const {
  std::int64_t bytes = 0;
  for (const auto& item : items_) bytes += static_cast<std::int64_t>(view(item).bytes());
  return bytes;
}

std::string ReplicaCheck::digest(const model::TensorView& view, std::vector<char>& staging) const {
  io::Xxh3 hash;
  const auto* const data = static_cast<const char*>(view.raw());
  const auto bytes = view.bytes();
  if (view.device() == Device::kCpu) {
    hash.update(data, bytes);
    return hash.hex();
  }
  staging.resize(std::min(bytes, kPiece));
  for (std::size_t at = 0; at < bytes; at += staging.size()) {
    const auto n = std::min(staging.size(), bytes - at);
    comm::gpu_copy(staging.data(), data + at, n);
    hash.update(staging.data(), n);
  }
  return hash.hex();
}

void ReplicaCheck::run(std::int64_t step) const {
  // 1. One digest a tensor, and one of these for each group.
  std::vector<char> staging;
  std::vector<std::string> digests;
  for (const auto& item : items_) digests.push_back(digest(view(item), staging));
  std::vector<bool> differs;
  for (const auto& copies : copies_) {
    if (copies.group->size() == 1) {
      differs.push_back(false);
      continue;
    }
    io::Xxh3 hash;
    for (const auto item : copies.items) hash.update(digests[item]);
    const auto of_ranks = comm::all_gather(*copies.group, hash.hex());
    differs.push_back(std::any_of(of_ranks.begin(), of_ranks.end(),
                                  [&](const auto& other) { return other != of_ranks.front(); }));
  }
  const bool mine = std::find(differs.begin(), differs.end(), true) != differs.end();
  if (comm::all_reduce(grid_.world(), std::int64_t{mine}, comm::ReduceOp::kMax) == 0) return;

  // 2. Which tensors of whom. All ranks of a group that differs come along.
  std::string found;
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    if (differs[i]) found += findings(copies_[i], digests);
  }
  // 3. All groups' findings together.
  std::set<std::string> lines;
  Suspects replicas, copies;
  for (const auto& text : comm::all_gather(grid_.world(), found)) {
    std::istringstream in(text);
    for (std::string who, line; std::getline(in, who) && std::getline(in, line);) {
      lines.insert(line);
      std::istringstream words(who);
      std::string kind;
      words >> kind;
      (kind == kReplicas ? replicas : copies)
          .emplace_back(std::istream_iterator<int>(words), std::istream_iterator<int>());
    }
  }
  const auto wrong = in_all(replicas, copies);
  auto text = fmt::format("step {}: copies of weights differ (run.replica_check)", step);
  if (wrong.size() == 1) text += fmt::format(": rank {} is the one that is wrong", wrong[0]);
  throw Error(ExitCode::kNumerical, fmt::format("{}:\n  {}", text, fmt::join(lines, "\n  ")),
              grid_.world().size());
}

// For each set of ranks that are outvoted, or cannot be told from the others, two lines: the kind
// of copies with their numbers in the grid, ascending, and what is said of them. From the group's
// first rank only.
std::string ReplicaCheck::findings(const Copies& copies,
                                   const std::vector<std::string>& digests) const {
  std::string own;
  for (const auto item : copies.items) own += digests[item];
  const auto of_ranks = comm::all_gather(*copies.group, own);
  const auto names =
      comm::all_gather(*copies.group, fmt::format("{} ({})", to_int(grid_.rank()), grid_.host()));
  if (copies.group->rank() != 0) return "";

  const auto size = of_ranks.size();
  std::map<std::pair<bool, std::vector<std::size_t>>, std::vector<std::string>> tensors;
  for (std::size_t i = 0; i < copies.items.size(); ++i) {
    std::map<std::string, std::size_t> votes;
    const auto of = [&](std::size_t rank) { return of_ranks[rank].substr(i * kDigest, kDigest); };
    for (std::size_t rank = 0; rank < size; ++rank) ++votes[of(rank)];
    if (votes.size() == 1) continue;
    const auto most = std::max_element(votes.begin(), votes.end(),
                                       [](auto& a, auto& b) { return a.second < b.second; });
    const bool majority = 2 * most->second > size;
    std::vector<std::size_t> suspects;
    for (std::size_t rank = 0; rank < size; ++rank) {
      if (!majority || of(rank) != most->first) suspects.push_back(rank);
    }
    tensors[{majority, suspects}].push_back(name(items_[copies.items[i]]));
  }
  const bool over_replicas =
      copies.group == groups_.replicas.get() || copies.group == groups_.expert_replicas.get();
  const char* const kind = over_replicas ? kReplicas : kCopies;
  std::string found;
  for (const auto& [who, which] : tensors) {
    const auto& [majority, suspects] = who;
    std::vector<std::string> numbers, people;
    for (const auto rank : suspects) {
      numbers.push_back(names[rank].substr(0, names[rank].find(' ')));
      if (people.size() < kNamed) people.push_back(names[rank]);
    }
    if (people.size() < suspects.size()) people.emplace_back("...");
    found += fmt::format(
        "{} {}\n{}{} {} rank{} {} over {}{}\n", kind, fmt::join(numbers, " "), which.front(),
        which.size() > 1 ? fmt::format(" and {} more tensors", which.size() - 1) : "",
        majority ? "of" : "between", suspects.size() > 1 ? "s" : "", fmt::join(people, ", "),
        copies.group->name(),
        majority ? fmt::format(", against {} equal copies", size - suspects.size()) : "");
  }
  return found;
}

}  // namespace pg::app
