// A group of any size that moves nothing, for dry runs of one rank of a grid: they measure memory
// and count traffic without the other ranks, or MPI.
#pragma once

#include <memory>
#include <string>

#include "comm/group.h"

namespace pg::comm {

// Every call is complete on return and touches no memory, so that buffers may be null with any
// count, on any device; what it would have brought is not there. Ranks, tags, types and counts that
// cannot be are bugs, as in any group. So the reductions of one number give this rank's own value
// back, and the gathering of texts gives empty ones.
std::unique_ptr<Group> make_dry_group(std::string name, int size, int rank);

}  // namespace pg::comm
