#include <fmt/format.h>
#include <hdf5.h>
#include <sentencepiece_processor.h>
#include <spdlog/spdlog.h>
#include <toml++/toml.h>
#include <xxhash.h>
#include <CLI/CLI.hpp>
#include <dnnl.hpp>
#include <nlohmann/json.hpp>
int main() {
  MPI_Init(nullptr, nullptr);
  fmt::print("{} {}\n", H5_VERSION, dnnl_version()->major);
  MPI_Finalize();
}
