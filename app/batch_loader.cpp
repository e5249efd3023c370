#include "app/batch_loader.h"

#include <algorithm>
#include <numeric>

namespace pg::app {

BatchLoader::BatchLoader(const io::TokenFile& file, const io::Sampler& sampler, std::int64_t seq,
                         std::int64_t micro_batch, int ranks, int rank)
    : file_(file),
      sampler_(sampler),
      seq_(seq),
      micro_batch_(micro_batch),
      ranks_(ranks),
      rank_(rank) {
  positions_.resize(static_cast<std::size_t>(micro_batch * seq));
  for (std::int64_t b = 0; b < micro_batch; ++b) {
    std::iota(positions_.begin() + b * seq, positions_.begin() + (b + 1) * seq, 0);
  }
}

void BatchLoader::load(std::int64_t first, std::int64_t count) {
  const auto round = ranks_ * micro_batch_;
  micro_batches_ = (count + round - 1) / round;
  const auto mine = micro_batches_ * micro_batch_;
  samples_.assign(static_cast<std::size_t>(mine), 0);
  tokens_.assign(static_cast<std::size_t>(mine * seq_), 0);
  targets_.assign(tokens_.size(), -1);

  std::vector<std::int32_t> window(static_cast<std::size_t>(seq_ + 1));
  for (std::int64_t s = 0; s < mine; ++s) {
    const auto in_step = s / micro_batch_ * round + rank_ * micro_batch_ + s % micro_batch_;
    samples_[static_cast<std::size_t>(s)] = first + in_step;
    if (in_step >= count) continue;
    file_.read(sampler_.first_token(first + in_step), window);
    std::copy(window.begin(), window.end() - 1, tokens_.begin() + s * seq_);
    std::copy(window.begin() + 1, window.end(), targets_.begin() + s * seq_);
  }
}

model::MicroBatch BatchLoader::micro(std::int64_t index) {
  const auto n = micro_batch_ * seq_;
  const auto view = [n](std::vector<std::int32_t>& values, std::int64_t at) {
    return model::TensorView(values.data() + at, DType::kI32, {n});
  };
  model::MicroBatch batch;
  batch.sequences = micro_batch_;
  batch.seq = seq_;
  batch.tokens = view(tokens_, index * n);
  batch.targets = view(targets_, index * n);
  batch.positions = view(positions_, 0);
  batch.samples = {samples_.data() + index * micro_batch_, static_cast<std::size_t>(micro_batch_)};
  return batch;
}

}  // namespace pg::app
