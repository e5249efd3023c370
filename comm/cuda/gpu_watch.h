// How the host waits for the GPU when some of its work needs other ranks: such work can fail, or
// last for ever, and CUDA knows nothing of it. Whoever issues it (NCCL's communicators) is watched
// here, and every wait of the host looks at all that is watched.
#pragma once

#include "comm/gpu.h"

namespace pg::comm {

class Watched {
 public:
  virtual ~Watched();
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  // Error(kComm) once it has failed.
  virtual void check() = 0;
  // Ends what is in flight, on the GPU too, without waiting for other ranks; check() then throws.
  virtual void abort() noexcept = 0;
  virtual GpuStream stream() const = 0;  // where its work is

 protected:
  Watched();
};

// The host waits for all that was issued on the GPU, or on `watched`'s stream. Error(kComm) when
// anything that is watched fails; everything watched is aborted first, so that nothing on the GPU
// waits for other ranks any longer.
void wait_for_gpu();
void wait_for(Watched& watched);
// The same for what was issued on `stream`, which may wait for what is watched.
void wait_for(GpuStream stream);

// Throws what check() of anything watched throws, after it aborted everything.
void check_watched();

// Aborts everything watched. False: nothing is, so that nothing on the GPU waits for other ranks.
bool abort_watched() noexcept;

}  // namespace pg::comm
