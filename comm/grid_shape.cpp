#include "comm/grid_shape.h"

#include <cstdint>
#include <limits>

#include "comm/error.h"

namespace pg::comm {

const char* axis_name(Axis axis) {
  constexpr const char* kNames[kAxes] = {"pp", "dp", "ep", "cp", "tp"};
  return kNames[static_cast<int>(axis)];
}

GridShape::GridShape(int dp, int tp, int pp, int ep, int cp) : sizes_{pp, dp, ep, cp, tp} {
  std::int64_t product = 1;
  for (const int size : sizes_) {
    PG_ASSERT(size >= 1, "{}", text());
    product *= size;  // at most 2^31 * 2^31: the check follows each factor
    PG_ASSERT(product <= std::numeric_limits<int>::max(), "{}", text());
  }
}

int GridShape::size(AxisSet axes) const {
  int product = 1;
  for (int a = 0; a < kAxes; ++a) {
    if (axes.has(static_cast<Axis>(a))) product *= sizes_[a];
  }
  return product;
}

int GridShape::world() const {
  int product = 1;
  for (const int size : sizes_) product *= size;
  return product;
}

Coord GridShape::coord(WorldRank rank) const {
  int rest = to_int(rank);
  PG_ASSERT(rest >= 0 && rest < world(), "rank {} in {}", rest, text());
  Coord coord;
  for (int a = kAxes - 1; a >= 0; --a) {
    coord.at[a] = rest % sizes_[a];
    rest /= sizes_[a];
  }
  return coord;
}

WorldRank GridShape::rank(const Coord& coord) const {
  int rank = 0;
  for (int a = 0; a < kAxes; ++a) {
    PG_ASSERT(coord.at[a] >= 0 && coord.at[a] < sizes_[a], "{} {} in {}",
              axis_name(static_cast<Axis>(a)), coord.at[a], text());
    rank = rank * sizes_[a] + coord.at[a];
  }
  return WorldRank{rank};
}

std::vector<WorldRank> GridShape::members(const Coord& coord, AxisSet axes) const {
  std::vector<WorldRank> ranks;
  const int count = size(axes);
  ranks.reserve(static_cast<std::size_t>(count));
  for (int index = 0; index < count; ++index) {
    Coord member = coord;
    int rest = index;
    for (int a = kAxes - 1; a >= 0; --a) {  // the fastest axis first: ascending world ranks
      if (!axes.has(static_cast<Axis>(a))) continue;
      member.at[a] = rest % sizes_[a];
      rest /= sizes_[a];
    }
    ranks.push_back(rank(member));
  }
  return ranks;
}

int GridShape::index_in(const Coord& coord, AxisSet axes) const {
  int index = 0;
  for (int a = 0; a < kAxes; ++a) {
    if (axes.has(static_cast<Axis>(a))) index = index * sizes_[a] + coord.at[a];
  }
  return index;
}

std::string GridShape::text() const {
  return fmt::format("dp {} x tp {} x pp {} x ep {} x cp {}", size(Axis::kDP), size(Axis::kTP),
                     size(Axis::kPP), size(Axis::kEP), size(Axis::kCP));
}

}  // namespace pg::comm
