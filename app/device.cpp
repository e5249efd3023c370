#include "app/device.h"

#include <vector>

#include "comm/agree.h"
#include "comm/gpu_choice.h"
#include "comm/group.h"
#include "comm/mpi_session.h"

namespace pg::app {

std::unique_ptr<comm::Gpu> open_gpu(const Deck& deck, const comm::Communicator& world) {
  if (deck.run.device == "cpu") return nullptr;
  const auto all = comm::make_mpi_group(world, "device");
  const auto missing = comm::gpu_missing();
  const auto answers = comm::all_gather(
      *all, missing.empty() ? "" : fmt::format("{}: {}", comm::host_name(), missing));
  std::size_t without = 0;
  std::string first;
  for (const auto& answer : answers) {
    if (answer.empty()) continue;
    if (first.empty()) first = answer;
    ++without;
  }
  const bool asked = deck.run.device == "cuda";
  if (without == answers.size() && !asked) return nullptr;
  if (without > 0) {
    throw Error(ExitCode::kDeck,
                fmt::format("run.device: \"{}\" needs a GPU on every rank, and {} of {} have none "
                            "they can use; {} (legal: \"cpu\"{})",
                            deck.run.device, without, answers.size(), first,
                            asked ? ", or \"auto\", which takes GPUs where there are any" : ""),
                world.size());
  }
  const auto node = world.split_by_host();
  std::unique_ptr<comm::Gpu> gpu;
  comm::together(*all, [&] {
    const auto choice = comm::choose_gpu(comm::gpu_count(), node.rank(), node.size());
    gpu = std::make_unique<comm::Gpu>(choice.ordinal);
  });
  return gpu;
}

}  // namespace pg::app
