// What `train` prints for people: the banner, one aligned line a logged step, and closing words.
// Pure formatting; the caller decides which rank prints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/deck.h"
#include "app/memory_plan.h"
#include "app/trainer.h"
#include "comm/gpu.h"

namespace pg::app {

struct Banner {
  const Deck& deck;
  comm::GridShape grid;
  std::vector<std::string> hosts;  // one a rank
  // One a rank, as gpu_line() writes them; none: on CPUs. What carries messages between them, and
  // what computes attention there.
  std::vector<std::string> gpus = {};
  std::string transport = {}, attention = {};
  std::string no_gpu = {};  // why "auto" has taken CPUs
  int threads = 1;
  bool tensor_ranks_share_host = true;
  std::int64_t train_tokens = 0, samples = 0;
  double matmul_flops = 0;  // of all ranks together, measured; 0: not measured
  std::int64_t resumed_step = 0;
  std::string resumed_from = {};
  std::vector<std::string> idle = {};  // ranks without a place in the grid
};

std::string banner_text(const Banner& banner);

// "0|NVIDIA H200|13.0": the number among those that the rank sees, its name, the driver.
std::string gpu_line(const comm::GpuInfo& gpu);

struct StepLine {
  StepResult result;
  std::int64_t steps = 0;
  double mfu = 0;  // 0: unknown
  std::int64_t peak_bytes = 0;
};

std::string step_text(const StepLine& line);

// "dp 2 x tp 4 x ... x cp 2 (ring)"
std::string axes_text(const Deck& deck, const comm::GridShape& grid);
// The same, "zero 1, sequence parallel"
std::string grid_text(const Deck& deck, const comm::GridShape& grid);
// "8 experts of 1408, top 2 a token, 1 shared; every block"; empty for a dense model.
std::string experts_text(const model::ModelConfig& model);
// "6,919,161,856 parameters, 1,281,983,488 of them active a token"
std::string parameters_text(const model::ModelConfig& model, std::int64_t parameters);
std::string pipeline_text(const Deck& deck);  // "interleaved, 2 chunks a stage"
std::string bytes_text(double bytes);         // "1.2 GiB"
std::string count_text(std::int64_t count);   // "12,345"

}  // namespace pg::app
