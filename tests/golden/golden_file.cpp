#include "golden_file.h"

#include <hdf5.h>

#include <stdexcept>
#include <utility>

namespace pg::golden {
namespace {

static_assert(sizeof(hid_t) == sizeof(std::int64_t));

// Closes an HDF5 identifier of any kind. Each kind has its own function.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& name,
                         const std::string& why) {
  throw std::runtime_error(path.string() + ": " + name + ": " + why);
}

// HDF5 prints its error stack by default; here an exception tells all.
template <class Call>
auto quietly(Call call) {
  H5E_auto2_t function = nullptr;
  void* data = nullptr;
  H5Eget_auto2(H5E_DEFAULT, &function, &data);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const auto result = call();
  H5Eset_auto2(H5E_DEFAULT, function, data);
  return result;
}

template <class T>
Array<T> read_array(const std::filesystem::path& path, hid_t file, const std::string& name,
                    hid_t memory_type, H5T_class_t wanted_class) {
  const Handle set(quietly([&] { return H5Dopen2(file, name.c_str(), H5P_DEFAULT); }), H5Dclose);
  if (set < 0) refuse(path, name, "no such dataset");
  const Handle type(H5Dget_type(set), H5Tclose);
  // HDF5 converts silently between numbers: wider is exact, narrower or across kinds is not.
  if (H5Tget_class(type) != wanted_class || H5Tget_size(type) > H5Tget_size(memory_type)) {
    refuse(path, name, "its element type does not fit");
  }
  const Handle space(H5Dget_space(set), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0) refuse(path, name, "has no simple shape");
  std::vector<hsize_t> extent(rank);
  H5Sget_simple_extent_dims(space, extent.data(), nullptr);
  Array<T> array;
  array.shape.assign(extent.begin(), extent.end());
  array.values.resize(H5Sget_simple_extent_npoints(space));
  if (H5Dread(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, array.values.data()) < 0) {
    refuse(path, name, "cannot be read");
  }
  return array;
}

// A scalar attribute of `wanted_class`, through `read(attribute, type)`.
template <class Read>
void read_attribute(const std::filesystem::path& path, hid_t file, const std::string& name,
                    H5T_class_t wanted_class, Read read) {
  const Handle attribute(quietly([&] { return H5Aopen(file, name.c_str(), H5P_DEFAULT); }),
                         H5Aclose);
  if (attribute < 0) refuse(path, name, "no such attribute");
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  if (H5Tget_class(type) != wanted_class || H5Sget_simple_extent_npoints(space) != 1) {
    refuse(path, name, "the attribute has another type");
  }
  if (read(attribute, type) < 0) refuse(path, name, "the attribute cannot be read");
}

template <class T>
T one_of(const GoldenFile& file, const std::filesystem::path& path, const std::string& name,
         std::initializer_list<std::pair<const char*, T>> choices) {
  const std::string value = file.text(name);
  for (const auto& [text, choice] : choices) {
    if (value == text) return choice;
  }
  refuse(path, name, "'" + value + "' is not known");
}

}  // namespace

GoldenFile::GoldenFile(const std::filesystem::path& path) : path_(path) {
  file_ = quietly([&] { return H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT); });
  if (file_ < 0) throw std::runtime_error(path.string() + ": cannot be opened as HDF5");
}

GoldenFile::~GoldenFile() {
  H5Fclose(file_);
}

bool GoldenFile::has(const std::string& name) const {
  return quietly([&] {
    const Handle object(H5Oopen(file_, name.c_str(), H5P_DEFAULT), H5Oclose);
    return object >= 0;
  });
}

std::vector<std::string> GoldenFile::names(const std::string& group) const {
  const Handle id(quietly([&] { return H5Gopen2(file_, group.c_str(), H5P_DEFAULT); }), H5Gclose);
  if (id < 0) refuse(path_, group, "no such group");
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
    static_cast<std::vector<std::string>*>(data)->emplace_back(name);
    return 0;
  };
  if (H5Literate(id, H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names) < 0) {
    refuse(path_, group, "cannot be listed");
  }
  return names;
}

Array<double> GoldenFile::doubles(const std::string& name) const {
  return read_array<double>(path_, file_, name, H5T_NATIVE_DOUBLE, H5T_FLOAT);
}

Array<std::int32_t> GoldenFile::ints(const std::string& name) const {
  return read_array<std::int32_t>(path_, file_, name, H5T_NATIVE_INT32, H5T_INTEGER);
}

bool GoldenFile::has_attribute(const std::string& name) const {
  return H5Aexists(file_, name.c_str()) > 0;
}

std::int64_t GoldenFile::integer(const std::string& name) const {
  std::int64_t value = 0;
  read_attribute(path_, file_, name, H5T_INTEGER, [&](hid_t attribute, hid_t) {
    return H5Aread(attribute, H5T_NATIVE_INT64, &value);
  });
  return value;
}

double GoldenFile::real(const std::string& name) const {
  double value = 0.0;
  read_attribute(path_, file_, name, H5T_FLOAT, [&](hid_t attribute, hid_t) {
    return H5Aread(attribute, H5T_NATIVE_DOUBLE, &value);
  });
  return value;
}

std::string GoldenFile::text(const std::string& name) const {
  std::string value;
  read_attribute(path_, file_, name, H5T_STRING, [&](hid_t attribute, hid_t type) {
    if (H5Tis_variable_str(type) != 0) return herr_t{-1};
    value.resize(H5Tget_size(type));
    return H5Aread(attribute, type, value.data());
  });
  return value.substr(0, value.find('\0'));
}

model::ModelConfig GoldenFile::config() const {
  model::ModelConfig config;
  config.layers = integer("layers");
  config.hidden = integer("hidden");
  config.heads = integer("heads");
  config.kv_heads = integer("kv_heads");
  config.head_dim = integer("head_dim");
  config.ffn = integer("ffn");
  config.vocab = integer("vocab");
  config.max_seq = integer("max_seq");
  config.norm = one_of<model::NormKind>(
      *this, path_, "norm",
      {{"rmsnorm", model::NormKind::kRmsNorm}, {"layernorm", model::NormKind::kLayerNorm}});
  config.activation = one_of<model::Activation>(
      *this, path_, "activation",
      {{"swiglu", model::Activation::kSwiGlu}, {"gelu", model::Activation::kGelu}});
  config.position = one_of<model::PositionKind>(
      *this, path_, "position",
      {{"rope", model::PositionKind::kRope}, {"learned", model::PositionKind::kLearned}});
  config.rope_theta = real("rope_theta");
  config.norm_eps = real("norm_eps");
  config.bias = integer("bias") != 0;
  config.tie_embeddings = integer("tie_embeddings") != 0;
  if (!has_attribute("moe_experts")) return config;

  config.moe.experts = integer("moe_experts");
  config.moe.top_k = integer("moe_top_k");
  config.moe.ffn = integer("moe_ffn");
  config.moe.router = one_of<model::RouterKind>(
      *this, path_, "moe_router",
      {{"top_k", model::RouterKind::kTopK}, {"switch", model::RouterKind::kSwitch}});
  config.moe.renormalize = integer("moe_renormalize") != 0;
  config.moe.shared_experts = integer("moe_shared_experts");
  config.moe.every = integer("moe_every");
  config.moe.aux_loss = real("moe_aux_loss");
  config.moe.z_loss = real("moe_z_loss");
  return config;
}

std::filesystem::path golden_path(const std::string& name) {
  return std::filesystem::path(PG_SOURCE_DIR) / "tests" / "golden" / (name + ".h5");
}

}  // namespace pg::golden
