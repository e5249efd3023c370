#include "tests/simulated_gpu/grid.h"

#include <boost/context/fiber.hpp>
#include <boost/context/stack_context.hpp>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace pg::simulated {

namespace {

namespace context = boost::context;

// Stacks of fibers, kept for the next block. Their distance is no power of two: the parts in use
// of a thousand stacks would share a few lines of the cache.
class Stacks {
 public:
  context::stack_context allocate() {
    if (free_.empty()) {
      slabs_.push_back(std::make_unique<char[]>(kSlab * kDistance));
      for (std::size_t i = kSlab; i-- > 0;) free_.push_back(slabs_.back().get() + i * kDistance);
    }
    context::stack_context stack;
    stack.size = kBytes;
    stack.sp = free_.back() + kBytes;
    free_.pop_back();
    return stack;
  }
  void deallocate(context::stack_context& stack) {
    free_.push_back(static_cast<char*>(stack.sp) - stack.size);
  }

 private:
  static constexpr std::size_t kBytes = 64 * 1024, kDistance = kBytes + 2112, kSlab = 64;
  std::vector<std::unique_ptr<char[]>> slabs_;
  std::vector<char*> free_;
};

Stacks& stacks() {
  static Stacks instance;
  return instance;
}

// What a fiber is made with: all of them share the stacks.
struct SharedStacks {
  context::stack_context allocate() { return stacks().allocate(); }
  void deallocate(context::stack_context& stack) { stacks().deallocate(stack); }
};

enum class State { kRunnable, kWarpBarrier, kBlockBarrier, kEnded };

struct Fiber {
  Thread info;
  State state = State::kRunnable;
  unsigned mask = 0;  // of the warp barrier
  context::fiber code;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<std::uint64_t> slots;  // 32 a warp
  context::fiber scheduler;
  Fiber* current = nullptr;
  std::exception_ptr failure;
};

Block* running = nullptr;

void wait_as(State state, unsigned mask) {
  Fiber& self = *running->current;
  self.state = state;
  self.mask = mask;
  running->scheduler = std::move(running->scheduler).resume();
}

// Releases warps whose barrier is complete, or else the block's. False: nobody can go on.
bool release(Block& block) {
  bool any = false;
  const auto n = block.fibers.size();
  for (std::size_t first = 0; first < n; first += 32) {
    for (std::size_t i = first; i < std::min(first + 32, n); ++i) {
      if (block.fibers[i].state != State::kWarpBarrier) continue;
      const unsigned mask = block.fibers[i].mask;
      bool complete = true;
      for (unsigned lane = 0; lane < 32 && complete; ++lane) {
        if ((mask >> lane & 1u) == 0) continue;
        if (first + lane >= n) {
          complete = false;  // a mask that names lanes the block has not
          break;
        }
        const auto& other = block.fibers[first + lane];
        complete = other.state == State::kWarpBarrier && other.mask == mask;
      }
      if (!complete) continue;
      for (unsigned lane = 0; lane < 32; ++lane) {
        if ((mask >> lane & 1u) != 0) block.fibers[first + lane].state = State::kRunnable;
      }
      any = true;
    }
  }
  if (any) return true;
  for (const auto& fiber : block.fibers) {
    if (fiber.state == State::kWarpBarrier) return false;
    any = any || fiber.state == State::kBlockBarrier;
  }
  for (auto& fiber : block.fibers) {
    if (fiber.state == State::kBlockBarrier) fiber.state = State::kRunnable;
  }
  return any;
}

}  // namespace

Thread& this_thread() {
  return running->current->info;
}

void block_barrier() {
  wait_as(State::kBlockBarrier, 0);
}

void warp_barrier(unsigned mask) {
  wait_as(State::kWarpBarrier, mask);
}

std::uint64_t* warp_slots() {
  return running->slots.data() + running->current->info.rank / 32 * 32;
}

void run_grid(const char* name, dim3 grid, dim3 block_dim, std::size_t shared_bytes,
              const std::function<void()>& body) {
  const unsigned threads = block_dim.x * block_dim.y * block_dim.z;
  std::vector<unsigned char> shared(shared_bytes + 16);
  auto* const base = reinterpret_cast<unsigned char*>(
      (reinterpret_cast<std::uintptr_t>(shared.data()) + 15) / 16 * 16);
  Block block;
  block.slots.resize((threads + 31) / 32 * 32);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        std::memset(shared.data(), 0xFF, shared.size());
        block.fibers.clear();
        block.fibers.resize(threads);
        for (unsigned t = 0; t < threads; ++t) {
          auto& fiber = block.fibers[t];
          fiber.info.thread = {t % block_dim.x, t / block_dim.x % block_dim.y,
                               t / block_dim.x / block_dim.y};
          fiber.info.block = {x, y, z};
          fiber.info.block_dim = block_dim;
          fiber.info.grid_dim = grid;
          fiber.info.rank = t;
          fiber.info.shared = base;
          fiber.code =
              context::fiber(std::allocator_arg, SharedStacks{}, [&](context::fiber&& scheduler) {
                block.scheduler = std::move(scheduler);
                try {
                  body();
                } catch (const context::detail::forced_unwind&) {
                  throw;
                } catch (...) {
                  block.failure = std::current_exception();
                }
                block.current->state = State::kEnded;
                return std::move(block.scheduler);
              });
        }
        running = &block;
        bool forwards = true;
        std::size_t ended = 0;
        while (ended < threads) {
          bool ran = false;
          for (unsigned i = 0; i < threads; ++i) {
            auto& fiber = block.fibers[forwards ? i : threads - 1 - i];
            if (fiber.state != State::kRunnable) continue;
            block.current = &fiber;
            fiber.code = std::move(fiber.code).resume();
            ran = true;
            if (fiber.state == State::kEnded) ++ended;
            if (block.failure) break;
          }
          if (block.failure) break;
          forwards = !forwards;
          if (ended < threads && !release(block) && !ran) {
            block.failure = std::make_exception_ptr(
                std::runtime_error(std::string("simulated GPU: threads of ") + name +
                                   " wait at barriers that the others never reach"));
            break;
          }
        }
        block.fibers.clear();  // unwinds those that still wait
        running = nullptr;
        if (block.failure) std::rethrow_exception(block.failure);
      }
    }
  }
}

}  // namespace pg::simulated
