// The command inspect: 0 with everything printed, 4 or 3 with the file and the cause.
#include "app/inspect.h"
#include "checkpoint_state.h"
#include "io/token_file.h"

namespace pg::io {
namespace {

namespace fs = std::filesystem;

class CheckpointInspect : public testing::Test {
 protected:
  const std::unique_ptr<comm::Group> group_ = comm::make_self_group("test");
  const TestDirectory directory_{*group_};
  TestState state_{tiny_plans(), 0, 1};

  fs::path save(const fs::path& directory, std::int64_t step) {
    state_.fill(1);
    return save_checkpoint(comm::Communicator::world(), directory, test_info(step),
                           state_.tensors());
  }
  static void damage(const fs::path& file) {
    auto bytes = bytes_of(file);
    bytes[bytes.size() - 1] ^= 1;
    put_bytes(file, bytes);
  }
  // Standard output of a run that must return `code`.
  static std::string output(const fs::path& path, int code) {
    testing::internal::CaptureStdout();
    const int returned = app::run_inspect(path.string());
    std::fflush(stdout);
    const auto text = testing::internal::GetCapturedStdout();
    EXPECT_EQ(returned, code) << text;
    return text;
  }
};

TEST_F(CheckpointInspect, a_checkpoint_is_described_and_verified) {
  const auto entry = save(directory_, 12);
  put_bytes(entry / "notes.txt", "mine");
  const auto text = output(entry, 0);
  for (const auto* part :
       {"step         12\n", "next sample  96\n", "00112233445566778899aabbccddeeff",
        "\"grid\":\"dp 2\"", "blocks.0.q.weight", "bf16", "[3, 5]",
        "3 tensors, 35 elements, 110 bytes", "state.h5", "notes.txt   ", "verified"}) {
    expect_contains(text, part);
  }
  expect_contains(output(entry.string() + "/", 0), "verified");
}

TEST_F(CheckpointInspect, a_damaged_checkpoint_is_refused_with_the_file_and_the_cause) {
  const auto entry = save(directory_, 12);
  damage(entry / "run.json");
  const auto what = error_of(ExitCode::kCheckpoint, [&] { app::run_inspect(entry.string()); });
  expect_contains(what, (entry / "run.json").string());
  expect_contains(what, "XXH3-128");
  fs::remove(entry / "manifest.json");
  expect_contains(error_of(ExitCode::kCheckpoint, [&] { app::run_inspect(entry.string()); }),
                  "manifest.json");
}

TEST_F(CheckpointInspect, a_run_lists_its_checkpoints_and_returns_4_when_one_is_damaged) {
  const auto checkpoints = directory_.path() / "checkpoints";
  save(checkpoints, 900);
  const auto newest = save(checkpoints, 1000);
  for (const auto& path : {directory_.path(), checkpoints}) {
    const auto text = output(path, 0);
    EXPECT_LT(text.find("step-000001000  verified"), text.find("step-000000900  verified"));
  }
  damage(newest / "state.h5");
  const auto text = output(directory_.path(), 4);
  expect_contains(text, "step-000001000  DAMAGED: ");
  expect_contains(text, "step-000000900  verified");
}

TEST_F(CheckpointInspect, a_token_file_is_described_and_a_damaged_one_is_refused) {
  const auto path = directory_.path() / "train.h5";
  TokenFileWriter writer(path, 256, "bytes", "a test");
  writer.add_document(std::vector<std::int32_t>{1, 2, 3});
  writer.add_document(std::vector<std::int32_t>{4, 5});
  writer.finish();
  const auto text = output(path, 0);
  for (const auto* part : {"tokens       5\n", "documents    2\n", "vocabulary   256\n",
                           "tokenizer    bytes\n", "a test", "verified"}) {
    expect_contains(text, part);
  }
  put_bytes(path, bytes_of(path).substr(0, 100));
  expect_contains(error_of(ExitCode::kData, [&] { app::run_inspect(path.string()); }),
                  path.string());
  put_bytes(path, "text");
  error_of(ExitCode::kData, [&] { app::run_inspect(path.string()); });
}

TEST_F(CheckpointInspect, nothing_to_inspect_is_an_error) {
  expect_contains(
      error_of(ExitCode::kCheckpoint, [&] { app::run_inspect(directory_.path().string()); }),
      "holds no checkpoint");
  error_of(ExitCode::kDeck, [&] { app::run_inspect((directory_.path() / "no").string()); });
}

}  // namespace
}  // namespace pg::io
