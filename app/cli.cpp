#include "app/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "comm/error.h"
#include "io/deck_format.h"

namespace pg::app {
namespace {

constexpr int kRanksMax = 1 << 20;
// In the design, not in this version.
constexpr std::string_view kLater[] = {"generate", "plan", "convert", "report"};

const Command* find(std::span<const Command> commands, std::string_view name) {
  for (const auto& command : commands) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

// CLI11 would only say that an argument was not expected.
void refuse_unknown_command(std::span<const Command> commands, std::string_view name) {
  std::vector<std::string> known;
  for (const auto& command : commands) known.push_back(command.name);
  if (name.empty()) {
    throw fail(ExitCode::kDeck, "a command is missing: one of {}", io::comma_list(known));
  }
  if (std::find(std::begin(kLater), std::end(kLater), name) != std::end(kLater)) {
    throw fail(ExitCode::kDeck, "{}: this version does not have it yet; it has: {}", name,
               io::comma_list(known));
  }
  const auto near = io::nearest(name, known);
  throw fail(ExitCode::kDeck, "\"{}\" is no command ({})", io::one_line(name),
             near.empty() ? "commands: " + io::comma_list(known) : "nearest: " + near);
}

void add_arguments(CLI::App& app, const Command& command, Invocation& call) {
  using Takes = Command::Takes;
  switch (command.takes) {
    case Takes::kDeckAndRanks:
      app.add_option("--ranks", call.ranks, "number of MPI ranks the deck must fit")
          ->check(CLI::Range(1, kRanksMax));
      [[fallthrough]];
    case Takes::kDeck:
      app.add_option("DECK", call.deck, "input deck, TOML")->required();
      app.add_option("OVERRIDES", call.overrides, "section.key=value ...");
      break;
    case Takes::kPath:
      app.add_option("PATH", call.operand, "checkpoint or token file")->required();
      break;
    case Takes::kSection:
      app.add_option("SECTION", call.operand, "section of the deck");
      break;
  }
}

}  // namespace

CommandLine parse_command_line(std::span<const Command> commands, int argc,
                               const char* const* argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  const bool is_option = first.starts_with("-");
  if (!is_option && !find(commands, first)) refuse_unknown_command(commands, first);

  CommandLine line;
  CLI::App app("Pentagrid trains transformers on a five-axis grid of MPI ranks.", "pentagrid");
  app.set_version_flag("--version", "pentagrid " PG_VERSION);
  app.require_subcommand(1);
  for (const auto& command : commands) {
    auto* sub = app.add_subcommand(command.name, command.summary);
    add_arguments(*sub, command, line.call);
    sub->final_callback([&line, &command] { line.command = &command; });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& version) {
    line.text = std::string(version.what()) + "\n";
    line.command = nullptr;
  } catch (const CLI::Success&) {  // --help, of the program or of a command
    const auto used = app.get_subcommands();
    line.text = used.empty() ? app.help() : used.front()->help(app.get_name());
    line.command = nullptr;
  } catch (const CLI::ParseError& error) {
    throw fail(ExitCode::kDeck, "{} (see pentagrid {}{}--help)", io::one_line(error.what()),
               is_option ? "" : first, is_option ? "" : " ");
  }
  return line;
}

int launcher_rank() {
  // Open MPI, PMIx launchers, MPICH and Intel MPI, Slurm.
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* text = std::getenv(name)) return std::atoi(text);
  }
  return 0;
}

}  // namespace pg::app
