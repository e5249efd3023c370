// Saves of which one rank does not see the end: killed_save_probe FOLDER COMMAND, driven by
// killed_save.sh, since a rank that is killed takes its whole launch with it.
//
//   save STEP                   saves, keeping two, and says "saved"
//   die STEP RANK PHASE HOW     the same, but RANK gets SIGKILL when the save reaches PHASE;
//                               "data:3" is the phase's third time. HOW: blocking or async
//   newest STEP                 exit 0: STEP is what a resume takes, each byte of it is sound, and
//   it
//                               loads to the values that were saved; 4 else, with a line
// States of different steps have different values.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>

#include "comm/agree.h"
#include "io/checkpoint_saver.h"
#include "tests/io/checkpoint_state.h"

namespace {

using namespace pg;
using comm::Communicator;

constexpr std::int64_t kKeep = 2;

class Probe {
 public:
  explicit Probe(std::filesystem::path folder) : folder_(std::move(folder)) {}

  void save(int step, bool async, int victim, const std::string& fatal_phase) {
    auto state = filled(step);
    std::map<std::string, int> times;
    io::CheckpointSaver saver(world_, folder_, {.async = async, .keep = kKeep}, [&](auto reached) {
      const std::string phase(reached);
      // From a background thread too: the signal ends the process.
      if (fatal_phase == phase + ":" + std::to_string(++times[phase]) && world_.rank() == victim) {
        std::ofstream(folder_.string() + ".died") << reached;
        ::kill(::getpid(), SIGKILL);
      }
    });
    saver.start(io::test_info(step), state.tensors());
    saver.finish();
    if (group_->rank() == 0) std::puts("saved");
    group_->barrier();
  }

  void expect_newest(int step) {
    std::vector<std::string> notes;
    const auto found = io::find_checkpoint(*group_, folder_, "auto", notes);
    comm::together(*group_, [&] {
      const auto expected = folder_ / io::checkpoint_name(step);
      if (!found || found->path != expected) {
        throw fail(ExitCode::kCheckpoint, "{} is found, not {}",
                   found ? found->path.string() : "nothing", expected.string());
      }
      // Nothing was damaged, so nothing is passed over. What a killed save left is only told.
      for (const auto& note : notes) {
        if (note.find("unfinished saves (.step-*)") == note.npos) {
          throw fail(ExitCode::kCheckpoint, "a note: {}", note);
        }
      }
    });
    io::TestState state(io::awkward_plans(), world_.rank(), world_.size());
    state.clear();
    io::load_checkpoint(world_, found->path, state.tensors());
    comm::together(*group_, [&] {
      const auto wrong = state.wrong(step);
      if (wrong != 0) throw fail(ExitCode::kCheckpoint, "{} elements differ", wrong);
    });
  }

 private:
  io::TestState filled(int step) const {
    io::TestState state(io::awkward_plans(), world_.rank(), world_.size());
    state.fill(step);
    return state;
  }

  std::filesystem::path folder_;
  Communicator world_ = Communicator::world();
  std::unique_ptr<comm::Group> group_ = comm::make_mpi_group(world_, "probe");
};

int run(const std::vector<std::string>& arguments) {
  Probe probe(arguments.at(0));
  const auto& command = arguments.at(1);
  const int step = std::stoi(arguments.at(2));
  if (command == "newest") {
    probe.expect_newest(step);
  } else {
    const bool dies = command == "die";
    auto phase = dies ? arguments.at(4) : "";
    if (dies && phase.find(':') == phase.npos) phase += ":1";
    probe.save(step, dies && arguments.at(5) == "async", dies ? std::stoi(arguments.at(3)) : -1,
               phase);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const comm::MpiSession mpi(argc, argv);
  try {
    return run({argv + 1, argv + argc});
  } catch (const Error& error) {
    if (Communicator::world().rank() == 0)
      std::fprintf(stderr, "killed_save_probe: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "killed_save_probe: %s\n", error.what());
    comm::abort_job(1);
  }
}
