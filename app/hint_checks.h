// checkpoint.hints: what MPI-IO may be told where a checkpoint's file is made.
#pragma once

#include <string>
#include <vector>

namespace pg::app {

// What is wrong with the hints, each a NAME=VALUE; empty when nothing is. Hints that would have no
// effect are refused too: every rank writes its own pieces of the file without MPI-IO, so that
// those of collective buffering and data sieving change nothing.
std::string hints_problem(const std::vector<std::string>& hints);

}  // namespace pg::app
