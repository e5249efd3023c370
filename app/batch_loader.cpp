#include "app/batch_loader.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

namespace pg::app {

BatchLoader::BatchLoader(const io::TokenFile& file, const io::Sampler& sampler, BatchShare share,
                         model::Kernels* gpu)
    : file_(file), gpu_(gpu), sampler_(sampler), share_(std::move(share)), part_(0) {
  for (const auto& run : share_.runs) part_ += run.length;
  positions_.resize(static_cast<std::size_t>(share_.micro_batch * part_));
  for (std::int64_t b = 0; b < share_.micro_batch; ++b) {
    for (const auto& run : share_.runs) {
      const auto at = positions_.begin() + b * part_ + run.row;
      std::iota(at, at + run.length, static_cast<std::int32_t>(run.begin));
    }
  }
}

void BatchLoader::load(std::int64_t first, std::int64_t count) {
  const auto round = share_.ranks * share_.micro_batch;
  micro_batches_ = (count + round - 1) / round;
  const auto mine = micro_batches_ * share_.micro_batch;
  samples_.assign(static_cast<std::size_t>(mine), 0);
  tokens_.assign(static_cast<std::size_t>(mine * part_), 0);
  targets_.assign(tokens_.size(), -1);
  if (share_.mask_documents) {
    document_begin_.assign(static_cast<std::size_t>(mine * share_.seq), 0);
  }
  for (std::int64_t s = 0; s < mine; ++s) {
    const auto in_step =
        s / share_.micro_batch * round + share_.rank * share_.micro_batch + s % share_.micro_batch;
    samples_[static_cast<std::size_t>(s)] = first + in_step;
    if (in_step < count) read_sample(first + in_step, s);
  }
  if (gpu_ != nullptr) upload();
}

std::int64_t BatchLoader::array_begin(int array) const {
  const std::array sizes{std::ssize(tokens_), std::ssize(targets_), std::ssize(document_begin_),
                         std::ssize(positions_)};
  return std::accumulate(sizes.begin(), sizes.begin() + array, std::int64_t{0});
}

void BatchLoader::upload() {
  const auto n = array_begin(4);
  const auto bytes = static_cast<std::size_t>(n) * sizeof(std::int32_t);
  if (on_gpu_.bytes() < bytes) {
    on_gpu_ = model::Buffer(bytes, model::Buffer::Kind::kReal, Device::kCuda);
    for (auto& buffer : pinned_) buffer = model::Buffer(bytes, model::Buffer::Kind::kPinned);
  }
  // The copy of two loads ago is done: the step in between has read its loss since.
  turn_ = 1 - turn_;
  auto* to = static_cast<std::int32_t*>(pinned_[static_cast<std::size_t>(turn_)].at(0));
  const model::TensorView staged(to, DType::kI32, {n});
  for (const auto* array : {&tokens_, &targets_, &document_begin_, &positions_}) {
    to = std::copy(array->begin(), array->end(), to);
  }
  gpu_->copy(model::TensorView(on_gpu_.at(0), DType::kI32, {n}, Device::kCuda), staged);
}

void BatchLoader::read_sample(std::int64_t sample, std::int64_t slot) {
  const auto first_token = sampler_.first_token(sample);
  for (const auto& run : share_.runs) {
    // One token more: the last one's target.
    window_.resize(static_cast<std::size_t>(run.length + 1));
    file_.read(first_token + run.begin, window_);
    const auto at = slot * part_ + run.row;
    std::copy(window_.begin(), window_.end() - 1, tokens_.begin() + at);
    std::copy(window_.begin() + 1, window_.end(), targets_.begin() + at);
  }
  if (share_.mask_documents) mask_documents(first_token, slot);
}

void BatchLoader::mask_documents(std::int64_t first_token, std::int64_t slot) {
  const auto seq = share_.seq;
  const std::span<std::int32_t> begin(document_begin_.data() + slot * seq,
                                      static_cast<std::size_t>(seq));
  // Documents are never empty, so those that begin in the sequence are as many as their starts.
  const auto from = documents_before(first_token + 1), to = documents_before(first_token + seq + 1);
  for (auto document = from; document < to; ++document) {
    const auto start = file_.document_start(document) - first_token;  // 1 to seq
    std::fill(begin.begin() + std::min(start, seq), begin.end(), static_cast<std::int32_t>(start));
    for (const auto& run : share_.runs) {
      // The token before predicts nothing.
      if (start - 1 < run.begin || start - 1 >= run.end()) continue;
      targets_[static_cast<std::size_t>(slot * part_ + run.row + start - 1 - run.begin)] = -1;
    }
  }
}

std::int64_t BatchLoader::documents_before(std::int64_t token) const {
  std::int64_t low = 0, high = file_.documents();
  while (low < high) {
    const auto middle = low + (high - low) / 2;
    (file_.document_start(middle) < token ? low : high) =
        file_.document_start(middle) < token ? middle + 1 : middle;
  }
  return low;
}

std::int64_t BatchLoader::counted_tokens(std::int64_t first, std::int64_t count) const {
  auto tokens = count * share_.seq;
  for (auto s = first; s < first + count && share_.mask_documents; ++s) {
    const auto at = sampler_.first_token(s);
    tokens -= documents_before(at + share_.seq + 1) - documents_before(at + 1);
  }
  return tokens;
}

model::MicroBatch BatchLoader::micro(std::int64_t index) {
  const auto n = share_.micro_batch * part_;
  const auto device = gpu_ != nullptr ? Device::kCuda : Device::kCpu;
  // Element `at` of one of the arrays, wherever it lies.
  const auto element = [&](int array, std::vector<std::int32_t>& values, std::int64_t at) -> void* {
    if (gpu_ == nullptr) return values.data() + at;
    return static_cast<std::int32_t*>(on_gpu_.at(0)) + array_begin(array) + at;
  };
  const auto view = [&](int array, std::vector<std::int32_t>& values, std::int64_t at) {
    return model::TensorView(element(array, values, at), DType::kI32, {n}, device);
  };
  model::MicroBatch batch;
  batch.sequences = share_.micro_batch;
  batch.seq = part_;
  batch.tokens = view(0, tokens_, index * n);
  batch.targets = view(1, targets_, index * n);
  batch.positions = view(3, positions_, 0);
  if (share_.mask_documents) {
    batch.document_begin =
        model::TensorView(element(2, document_begin_, index * share_.micro_batch * share_.seq),
                          DType::kI32, {share_.micro_batch, share_.seq}, device);
  }
  batch.samples = {samples_.data() + index * share_.micro_batch,
                   static_cast<std::size_t>(share_.micro_batch)};
  return batch;
}

}  // namespace pg::app
