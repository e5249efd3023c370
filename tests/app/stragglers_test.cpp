// Which ranks are named as slow, of made-up times and in runs.
#include "app/stragglers.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/train.h"
#include "comm/activity.h"
#include "harness/tiny_run.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

std::vector<int> named(const std::vector<double>& own, const std::vector<int>& stages,
                       double factor = 2) {
  std::vector<int> ranks;
  for (const auto& s : app::find_stragglers(own, stages, factor)) ranks.push_back(s.rank);
  return ranks;
}

TEST(Stragglers, are_measured_by_the_median_of_their_stage) {
  const std::vector<int> one(4, 0);
  EXPECT_EQ(named({.1, .1, .3, .1}, one), std::vector{2});
  EXPECT_EQ(named({.1, .1, .19, .1}, one), std::vector<int>{});
  EXPECT_EQ(named({.1, .1, .19, .1}, one, 1.5), std::vector{2});
  EXPECT_EQ(named({.1, .1, .3, .1}, one, 0), std::vector<int>{});
  // The last stage has the head: it may take three times as long.
  EXPECT_EQ(named({.1, .1, .1, .3, .3, .3}, {0, 0, 0, 1, 1, 1}), std::vector<int>{});
  EXPECT_EQ(named({.1, .1, .1, .3, .3, .9}, {0, 0, 0, 1, 1, 1}), std::vector{5});
  EXPECT_EQ(named({.1, .9, .1, .9}, {0, 0, 1, 1}), std::vector<int>{});  // of two, which?
  EXPECT_EQ(named({.001, .001, .015, .001}, one), std::vector<int>{});   // chance
}

// Takes the main thread away for a while, twice in each step, as another program on its core would:
// when it works, not when it waits for others.
class Slowed {
 public:
  explicit Slowed(bool really) {
    if (!really) return;
    struct sigaction action {};
    action.sa_handler = [](int) { ::usleep(80'000); };
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGUSR2, &action, nullptr);
    pulses_ = std::thread([this, main = ::pthread_self()] { pulse(main); });
  }
  ~Slowed() {
    stop_ = true;
    if (pulses_.joinable()) pulses_.join();
  }
  Slowed(const Slowed&) = delete;
  Slowed& operator=(const Slowed&) = delete;

 private:
  void pulse(pthread_t main) {
    std::map<std::int64_t, int> of_step;
    for (; !stop_; ::usleep(100)) {
      const auto record = comm::activity_record();
      const bool works = !record.places.empty() && std::string(record.places[0].name) == "step" &&
                         record.operation == nullptr;
      if (!works || of_step[record.step] == 2) continue;
      ++of_step[record.step];
      ::pthread_kill(main, SIGUSR2);
      ::usleep(80'000);
    }
  }

  std::atomic<bool> stop_{false};
  std::thread pulses_;
};

// By the records of a run: how often each rank was named.
std::map<int, int> named_in_a_run(const std::string& folder, int slow_rank) {
  const auto world = comm::Communicator::world();
  static const auto tokens = make_tokens(world, "stragglers", 2401, 61, 5);
  auto deck = llama_deck(tokens, DType::kF32);
  deck.train.steps = 5;
  deck.train.global_batch = 96;
  deck.log.every = 4;
  deck.log.straggler = 2;
  deck.run.output = no_folder(world, "stragglers", folder);
  {
    const Slowed slowed(world.rank() == slow_rank);
    EXPECT_EQ(app::run_train(deck, world), ExitCode::kDone);
  }
  std::map<int, int> counts;
  std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto record = nlohmann::json::parse(line);
    if (!record.contains("stragglers")) continue;
    EXPECT_FALSE(record.contains("loss"));
    for (const auto& s : record["stragglers"]) {
      ++counts[s["rank"].get<int>()];
      EXPECT_EQ(s["host"], comm::host_name());
      EXPECT_GT(s["own_s"].get<double>(), 2 * s["median_s"].get<double>());
    }
  }
  return counts;
}

// What other programs on this machine do to the other ranks is not this test's business.
TEST(Stragglers, a_slowed_rank_is_named_by_the_run) {
  // They may be slowed as much on a busy machine: another try then, which all ranks agree on.
  std::map<int, int> counts;
  for (int tries = 0; tries < 5 && !counts.contains(2); ++tries) {
    counts = named_in_a_run("slowed" + std::to_string(tries), 2);
  }
  EXPECT_EQ(counts.contains(2) ? counts.at(2) : 0, 1);  // at step 4; of step 5 alone, nobody
}

TEST(Stragglers, ranks_learn_of_each_other) {
  const auto world = comm::Communicator::world();
  comm::ProcessGrid grid(world, comm::GridShape(4, 1, 1, 1, 1));
  app::Stragglers stragglers(2, grid);
  const auto interval = [&](const std::vector<double>& of_slow, double of_others) {
    for (const double own : of_slow) stragglers.add(world.rank() == 3 ? own : of_others);
    return stragglers.found();
  };
  EXPECT_TRUE(interval({9.}, .1).empty());           // the first step
  EXPECT_TRUE(interval({.1, .1, .1}, .1).empty());   // equal ones
  EXPECT_TRUE(interval({.1, 30., .1}, .1).empty());  // held up once
  EXPECT_TRUE(interval({.5, .5}, .1).empty());       // too few to judge
  const auto found = interval({.5}, .1);             // these three
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].rank, 3);
  EXPECT_EQ(found[0].host, comm::host_name());
  EXPECT_EQ(found[0].own_s, .5);
  EXPECT_EQ(found[0].median_s, .1);
  EXPECT_TRUE(interval({.1, .1, .1}, .1).empty());  // forgotten
}

}  // namespace
}  // namespace pg::testing
