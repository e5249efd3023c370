#include "comm/profile_range.h"

namespace pg::comm {

ProfileRange::ProfileRange(const char* /*name*/, std::int64_t /*index*/) {}
ProfileRange::~ProfileRange() = default;

}  // namespace pg::comm
