// The rank algebra of the five-axis grid: pure arithmetic, no MPI.
//
// World rank order is (pp, dp, ep, cp, tp), tp fastest, so that tensor-parallel ranks are
// neighbours inside a node. EP ranks hold different sequences, as DP ranks do; so dense parameters
// are replicas over dp*ep*cp and expert parameters over dp*cp.
#pragma once

#include <array>
#include <initializer_list>
#include <string>
#include <vector>

namespace pg::comm {

enum class Axis : int { kPP = 0, kDP = 1, kEP = 2, kCP = 3, kTP = 4 };
inline constexpr int kAxes = 5;

const char* axis_name(Axis axis);  // "pp", "dp", "ep", "cp", "tp"

// A rank of the whole job, and a position along one axis: not interchangeable.
enum class WorldRank : int {};
constexpr int to_int(WorldRank rank) {
  return static_cast<int>(rank);
}

// One coordinate an axis, indexed by Axis.
struct Coord {
  std::array<int, kAxes> at{};
  int operator[](Axis axis) const { return at[static_cast<int>(axis)]; }
  int& operator[](Axis axis) { return at[static_cast<int>(axis)]; }
  bool operator==(const Coord&) const = default;
};

// A set of axes; the ranks that differ only along them form a group.
struct AxisSet {
  unsigned bits = 0;
  constexpr AxisSet() = default;
  constexpr AxisSet(std::initializer_list<Axis> axes) {
    for (const Axis axis : axes) bits |= 1u << static_cast<int>(axis);
  }
  constexpr bool has(Axis axis) const { return (bits >> static_cast<int>(axis)) & 1u; }
};

// Named once, used everywhere.
inline constexpr AxisSet kDenseReplicas{Axis::kDP, Axis::kEP, Axis::kCP};
inline constexpr AxisSet kExpertReplicas{Axis::kDP, Axis::kCP};
inline constexpr AxisSet kBatch{Axis::kDP, Axis::kEP};  // axes along which sequences differ

class GridShape {
 public:
  GridShape() = default;
  // Each >= 1 and the product an int (PG_ASSERT): what a user asks for is checked before.
  GridShape(int dp, int tp, int pp, int ep, int cp);

  int size(Axis axis) const { return sizes_[static_cast<int>(axis)]; }
  int size(AxisSet axes) const;  // product
  int world() const;
  std::array<int, kAxes> dims() const { return sizes_; }  // (pp, dp, ep, cp, tp)

  Coord coord(WorldRank rank) const;
  WorldRank rank(const Coord& coord) const;

  // The ranks of the group over `axes` that holds `coord`, in group-rank order (world order).
  std::vector<WorldRank> members(const Coord& coord, AxisSet axes) const;
  // This coordinate's rank inside that group.
  int index_in(const Coord& coord, AxisSet axes) const;

  std::string text() const;  // "dp 2 x tp 1 x pp 1 x ep 1 x cp 1"
  bool operator==(const GridShape&) const = default;

 private:
  std::array<int, kAxes> sizes_{1, 1, 1, 1, 1};
};

}  // namespace pg::comm
