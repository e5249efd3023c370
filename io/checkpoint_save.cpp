// Saving in one call: see io/checkpoint.h.
#include "io/checkpoint.h"
#include "io/checkpoint_saver.h"
#include "io/checkpoint_state.h"
#include "io/manifest.h"

namespace pg::io {

std::filesystem::path save_checkpoint(const comm::Communicator& world,
                                      const std::filesystem::path& directory,
                                      const CheckpointInfo& info,
                                      std::span<const comm::TensorRecord> tensors,
                                      const SaveObserver& observer, const SaveOptions& options) {
  PG_ASSERT(!options.async, "one call cannot be asynchronous; step {}", info.step);
  CheckpointSaver saver(world, directory, options, observer);
  saver.start(info, tensors);
  return saver.finish()->path;
}

std::int64_t checkpoint_bytes(std::span<const comm::TensorRecord> tensors, std::int64_t alignment) {
  constexpr std::int64_t kSmallFiles = 64 << 10;  // deck, provenance, manifest without:
  constexpr std::int64_t kChunkLine = 48;         // a chunk's digest in the manifest
  const auto state = state_bytes(tensors, alignment);
  return state + kSmallFiles + kChunkLine * chunk_count(state);
}

}  // namespace pg::io
