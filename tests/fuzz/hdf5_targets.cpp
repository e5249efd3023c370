// Targets that are HDF5 files.
#include "../../io/checkpoint_state.h"  // tests/io has one of this name, and comes first

#include <vector>

#include "io/checkpoint.h"
#include "io/token_file.h"
#include "tests/fuzz/reseal.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace pg::fuzz {

namespace {

void read_token_file(std::string_view bytes) {
  const auto path = Scratch::shared().put("tokens.h5", bytes);
  done_or_refused({ExitCode::kData}, [&] {
    const io::TokenFile file(path);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(
        std::min<std::int64_t>(file.tokens(), static_cast<std::int64_t>(bytes.size()))));
    file.read(0, ids);
    for (const auto id : ids) require(id >= 0 && id < file.vocab(), "an id outside");
    for (std::int64_t i = 0; i < file.documents(); ++i) {
      require(file.document_start(i) < file.document_start(i + 1), "documents do not ascend");
    }
    file.verify();
  });
}

void read_state_file(std::string_view bytes) {
  const auto& scratch = Scratch::shared();
  const auto path = scratch.put("state.h5", bytes);
  done_or_refused({ExitCode::kCheckpoint}, [&] {
    auto tensors = io::read_checkpoint_tensors(scratch.path());
    std::size_t total = 0;
    for (const auto& tensor : tensors) {
      total += static_cast<std::size_t>(tensor.elements()) * dtype_size(tensor.dtype);
    }
    require(total <= bytes.size(), "tensors of more bytes than the file has");
    std::vector<std::vector<char>> memory;
    for (auto& tensor : tensors) {
      auto& data = memory.emplace_back(static_cast<std::size_t>(tensor.elements()) *
                                       dtype_size(tensor.dtype));
      comm::Slab whole;
      whole.offset.assign(tensor.shape.size(), 0);
      whole.extent = tensor.shape;
      whole.data = data.data();
      tensor.slabs.push_back(whole);
    }
    io::read_state(path, tensors);
  });
}

void raw_and_resealed(std::string_view input, void (*read)(std::string_view)) {
  read(input);
  if (const auto sealed = resealed(input); sealed != input) read(sealed);
}

}  // namespace

void token_file(std::string_view input) {
  raw_and_resealed(input, read_token_file);
}

void state(std::string_view input) {
  raw_and_resealed(input, read_state_file);
}

}  // namespace pg::fuzz
