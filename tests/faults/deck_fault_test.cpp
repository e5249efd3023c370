// FAULTS.md case 21 and misuse of the command line, on the executable: exit 2, one line for each
// thing that is wrong, on standard error, and nothing left behind.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace {

namespace fs = std::filesystem;

const std::string kProgram = PG_BINARY_DIR "/pentagrid";

const char* const kDeck =
    "[model]\nlayers = 2\nhidden = 64\nheads = 4\nvocab = 300\n"
    "[data]\ntrain = 't.h5'\n"
    "[train]\nsteps = 100\nseq = 32\nglobal_batch = 8\nmicro_batch = 2\n";

struct Outcome {
  int code = -1;
  std::string out, err;
};

std::string contents(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

class DeckFaults : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "pg_faults_XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }

  // `command` in the test's folder.
  Outcome shell(const std::string& command) const {
    const auto out = folder_ / "stdout", err = folder_ / "stderr";
    const auto line = "cd '" + folder_.string() + "' && timeout 60 " + command + " >'" +
                      out.string() + "' 2>'" + err.string() + "'";
    const int status = std::system(line.c_str());
    Outcome outcome{WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(out), contents(err)};
    fs::remove(out);
    fs::remove(err);
    return outcome;
  }
  Outcome run(const std::string& arguments) const { return shell(kProgram + " " + arguments); }

  fs::path folder_;
};

std::size_t lines_with(const std::string& text, const std::string& part) {
  std::istringstream lines(text);
  std::size_t count = 0;
  for (std::string line; std::getline(lines, line);) count += line.find(part) != line.npos;
  return count;
}

// Exit 2, each line of standard error an error, `part` in one of them.
void expect_refused(const Outcome& outcome, const std::string& part) {
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(lines_with(outcome.err, part), 1u) << "wanted: " << part << "\ngot: " << outcome.err;
  EXPECT_EQ(lines_with(outcome.err, ""), lines_with(outcome.err, "pentagrid: error: "))
      << outcome.err;
}

TEST_F(DeckFaults, a_legal_deck_passes_and_prints_itself) {
  write("d.toml", kDeck);
  const auto outcome = run("check d.toml --ranks 2 optimizer.lr=1e-3");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("lr = 0.001"), std::string::npos);
  EXPECT_NE(outcome.out.find("dp 2 x tp 1"), std::string::npos);
  EXPECT_NE(outcome.err.find("pentagrid: warning: data.train: t.h5 does not exist yet"),
            std::string::npos);
}

TEST_F(DeckFaults, crlf_and_a_bom_are_legal) {
  std::string crlf = "\xEF\xBB\xBF";
  for (const char c : std::string(kDeck))
    crlf += c == '\n' ? std::string("\r\n") : std::string(1, c);
  write("d.toml", crlf);
  EXPECT_EQ(run("check d.toml").code, 0);
}

TEST_F(DeckFaults, each_bad_text_exits_2_with_its_place) {
  const std::string deck = kDeck;
  const std::pair<std::string, std::string> cases[] = {
      {deck + "steps2 = 1\n", "d.toml:13:1: train.steps2: unknown key (nearest key: train.steps)"},
      {deck + "steps = 1\n", "d.toml:13:"},
      {deck + "eval_every = 12x\n", "d.toml:13:"},
      {deck + "eval_batches = 2.0\n", "d.toml:13:16: train.eval_batches: 2.0 is a float"},
      {deck + "[optimizer]\nlr = nan\n", "d.toml:14:6: optimizer.lr: nan is not a finite number"},
      {deck + "eval_batches = 0\n", "d.toml:13:16: train.eval_batches: 0 is out of range"},
      {deck + "[model]\n", "d.toml:13:"},
      {deck + std::string("#\0\n", 3), "d.toml:13:2: syntax error: a NUL byte"},
      {deck + "# " + std::string(100000, 'x') + "\n", "d.toml:13:1: syntax error: a line of"},
      {deck + "# \xff\n", "d.toml:13:"},
      {std::string(2000000, '\n'), "d.toml: cannot read the deck: it is longer than 1 MiB"},
      {"x = " + std::string(60000, '['), "nested more than 16 deep"},
  };
  for (const auto& [text, part] : cases) {
    write("d.toml", text);
    expect_refused(run("check d.toml"), part);
  }
  write("d.toml", "");
  expect_refused(run("check d.toml"), "d.toml:1:1: model.layers: it is required");
}

TEST_F(DeckFaults, all_problems_are_printed_at_once_in_order) {
  write("d.toml", std::string(kDeck) + "foo = 1\n[optimizer]\nlr = -1\n");
  const auto outcome = run("check d.toml model.layers=0");
  expect_refused(outcome, "d.toml:13:1: train.foo: unknown key");
  expect_refused(outcome, "d.toml:15:6: optimizer.lr: -1 is out of range");
  expect_refused(outcome, "command line: model.layers=0: model.layers: 0 is out of range");
  EXPECT_EQ(lines_with(outcome.err, ""), 3u);
  EXPECT_LT(outcome.err.find("train.foo"), outcome.err.find("optimizer.lr"));
  EXPECT_LT(outcome.err.find("optimizer.lr"), outcome.err.find("model.layers"));
}

TEST_F(DeckFaults, grids_that_do_not_fit_are_refused_on_a_login_node) {
  write("d.toml", kDeck);
  expect_refused(run("check d.toml --ranks 2 grid.dp=4"), "legal: dp = 2");
  expect_refused(run("check d.toml --ranks 3"), "is not a multiple of dp*ep*micro_batch");
  expect_refused(run("check d.toml grid.ep=2"), "grid.ep: 2 ranks share out a block's experts");
  expect_refused(run("check d.toml grid.cp=3"),
                 "grid.cp: context.method = \"ring\" needs train.seq");
  expect_refused(run("train d.toml run.device=cuda"), "run.device: \"cuda\" needs a GPU");
  expect_refused(run("check d.toml grid.tp=3"), "legal for this model: 1, 2, 4");
  expect_refused(run("check d.toml grid.pp=3"), "grid.pp: 3 stages need a layer each");
  expect_refused(run("check d.toml grid.pp=4096 model.layers=16384 train.global_batch=1048576"),
                 "a schedule of 4096 stages x 1 chunks is too large");
}

TEST_F(DeckFaults, misuse_of_the_command_line_exits_2) {
  write("d.toml", kDeck);
  expect_refused(run(""), "a command is missing");
  expect_refused(run("trian d.toml"), "\"trian\" is no command (nearest: train)");
  for (const char* later : {"generate", "plan", "convert", "report"}) {
    expect_refused(run(std::string(later) + " d.toml"), "this version does not have it yet");
  }
  expect_refused(run("check"), "DECK");
  expect_refused(run("check d.toml --ranks 2x"), "--ranks");
  expect_refused(run("check d.toml --ranks 0"), "--ranks");
  expect_refused(run("check d.toml --frobnicate"), "--frobnicate");
  expect_refused(run("check d.toml stray"), "it takes section.key=value");
  expect_refused(run("check missing.toml"), "missing.toml: cannot read the deck");
  expect_refused(run("check ."), "it is a directory");
  expect_refused(run("help trian"), "nearest: train");
}

TEST_F(DeckFaults, help_and_version_exit_0) {
  const auto program = run("--help");
  EXPECT_EQ(program.code, 0);
  EXPECT_EQ(program.out.find("generate"), std::string::npos);  // not there yet, not promised
  EXPECT_NE(program.out.find("check"), std::string::npos);
  EXPECT_EQ(run("check --help").code, 0);
  EXPECT_EQ(run("--version").code, 0);
  EXPECT_EQ(run("help").code, 0);
  EXPECT_EQ(run("help model").code, 0);
}

TEST_F(DeckFaults, train_exits_2_and_leaves_nothing_behind) {
  write("d.toml", kDeck);
  expect_refused(run("train d.toml model.heads=5"), "5 does not divide hidden = 64");
  EXPECT_FALSE(fs::exists(folder_ / "runs"));
}

TEST_F(DeckFaults, two_ranks_refuse_a_deck_once) {
  write("d.toml", kDeck);
  const auto outcome =
      shell(std::string(PG_MPIEXEC) + " 2 " + kProgram + " train d.toml foo.bar=1 grid.dp=3");
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_EQ(lines_with(outcome.err, "unknown section"), 1u) << outcome.err;
  EXPECT_EQ(lines_with(outcome.err, "legal: dp = 2"), 1u) << outcome.err;
  EXPECT_FALSE(fs::exists(folder_ / "runs"));
}

TEST_F(DeckFaults, a_deck_unreadable_on_rank_0_alone_ends_all_ranks) {
  write("d.toml", kDeck);
  const auto outcome = shell(std::string(PG_MPIEXEC) + " 1 " + kProgram +
                             " train gone.toml : -n 1 " + kProgram + " train d.toml");
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_EQ(lines_with(outcome.err, "gone.toml: cannot read the deck"), 1u) << outcome.err;
}

TEST_F(DeckFaults, a_deck_unreadable_on_another_rank_does_not_matter) {
  write("d.toml", std::string(kDeck) + "foo = 1\n");
  // Rank 0's problem is the one that is reported: rank 1's path was never opened.
  const auto outcome = shell(std::string(PG_MPIEXEC) + " 1 " + kProgram + " train d.toml : -n 1 " +
                             kProgram + " train gone.toml");
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_EQ(lines_with(outcome.err, "train.foo: unknown key"), 1u) << outcome.err;
  EXPECT_EQ(lines_with(outcome.err, "gone.toml"), 0u) << outcome.err;
}

TEST_F(DeckFaults, commands_without_a_launcher_speak_once_under_one) {
  write("d.toml", kDeck);
  const auto outcome = shell(std::string(PG_MPIEXEC) + " 2 " + kProgram + " check d.toml");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(lines_with(outcome.out, "[optimizer]"), 1u) << outcome.out;
}

}  // namespace

// Not the harness's main: a program inside MPI may not start others.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
