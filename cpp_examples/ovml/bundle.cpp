#include "bundle.h"

#include <algorithm>

#include "files.h"
#include "json.h"

namespace fs = std::filesystem;

namespace ovml {

namespace {

constexpr const char* manifest_name = "bundle.json";
constexpr std::uint64_t most_manifest = 16u << 20;
constexpr std::int64_t most_dim = 1 << 24, most_side = 1 << 16, most_tokens = 1LL << 31;

[[noreturn]] void fail(const std::string& why) {
  throw Error(Code::bundle,
              std::string(manifest_name) + " is damaged: " + why + ". Export the bundle again.");
}

void check(bool holds, const std::string& why) {
  if (!holds) fail(why);
}

template <typename T>
T get(const Json& object, const char* name) {
  return member<T>(object, name, Code::bundle, manifest_name);
}

const Json& part(const Json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  check(object.is_object() && found != object.end(), std::string("no '") + name + "'");
  return *found;
}

std::int64_t whole(const Json& object, const char* name, std::int64_t least, std::int64_t most) {
  const auto value = get<std::int64_t>(object, name);
  check(value >= least && value <= most, "'" + std::string(name) + "' is " + std::to_string(value));
  return value;
}

std::vector<std::string> texts(const Json& list, const char* what) {
  check(list.is_array(), std::string(what) + " is no list");
  std::vector<std::string> found;
  for (const auto& text : list) {
    check(text.is_string(), std::string(what) + " is no list of texts");
    found.push_back(text.get<std::string>());
  }
  return found;
}

Preprocessing read_preprocessing(const Json& config) {
  Preprocessing made;
  const Json& size = part(config, "size");
  const bool pair = size.is_array() && size.size() == 2;
  check(pair || size.is_number_integer(), "preprocessing size");
  for (const auto& side : pair ? size : Json::array({size, size}))
    check(side.is_number_integer() && side.get<double>() >= 1 && side.get<double>() <= most_side,
          "preprocessing size");
  made.height = (pair ? size[0] : size).get<int>();
  made.width = (pair ? size[1] : size).get<int>();
  made.bilinear = get<std::string>(config, "interpolation") == "bilinear";
  const auto mode = get<std::string>(config, "resize_mode");
  check(mode == "shortest" || mode == "longest" || mode == "squash", "resize_mode " + mode);
  made.mode = mode == "squash"    ? Preprocessing::Mode::squash
              : mode == "longest" ? Preprocessing::Mode::longest
                                  : Preprocessing::Mode::shortest;
  if (config.contains("fill_color"))
    made.fill = static_cast<std::uint8_t>(whole(config, "fill_color", 0, 255));
  return made;
}

TextSettings read_text(const Json& text) {
  TextSettings made{whole(text, "context_length", 1, most_side), whole(text, "pad_id", 0, most_tokens),
                    get<bool>(text, "any_length"), get<bool>(text, "needs_mask"),
                    get<std::string>(text, "clean")};
  check(made.clean == "lower" || made.clean == "whitespace" || made.clean == "canonicalize",
        "text cleaning '" + made.clean + "'");
  return made;
}

LearnedTokens read_learned(const Json& value, std::int64_t context_length) {
  LearnedTokens made{whole(value, "first_id", 1, most_tokens), whole(value, "lead", 0, context_length),
                     whole(value, "shared", 0, context_length),
                     whole(value, "grouped", 0, context_length), texts(part(value, "groups"), "groups")};
  check(made.lead + made.shared + made.grouped < context_length, "more learned tokens than fit");
  return made;
}

}  // namespace

std::string short_hash(const std::string& text) {
  Sha256 digest;
  digest.update(text);
  return digest.hex().substr(0, 16);
}

Bundle Bundle::open(const fs::path& engine) {
  std::error_code failed;
  const fs::path folder = fs::is_regular_file(engine, failed) ? engine.parent_path() : engine;
  require(fs::is_regular_file(folder / manifest_name, failed), Code::bundle,
          "'" + engine.string() + "' is not a bundle: there is no " + manifest_name +
              " in it. Make one with 'python -m export.onnx --ckpt qks.pt --out build/qks'.");
  return Bundle(fs::canonical(folder.empty() ? "." : folder),
                read_file(folder / manifest_name, most_manifest, Code::bundle));
}

Bundle::Bundle(fs::path folder, const std::string& manifest) : path(std::move(folder)) {
  const Json value = parse_json(manifest, Code::bundle, manifest_name);
  check(value.is_object(), "it is no JSON object");
  require(value.value("format", Json()) == "ovml-deploy/bundle", Code::bundle,
          path.string() + ": bundle.json does not describe a bundle of this project.");
  require(value.value("version", Json()) == 1, Code::bundle,
          path.string() +
              ": bundle.json is of another version; this release reads version 1. "
              "Export the bundle again.");
  const Json& files = part(value, "files");
  check(files.is_object(), "'files' is no object");
  for (const auto& [name, listed] : files.items()) {
    inside(name);
    files_[name] = {get<std::string>(listed, "sha256"),
                    static_cast<std::uint64_t>(whole(listed, "bytes", 0, INT64_MAX))};
  }
  const Json& about = part(value, "head");
  head = get<std::string>(about, "kind");
  activation = get<std::string>(about, "activation");
  check(activation == "sigmoid" || activation == "softmax", "activation '" + activation + "'");
  normalises_labels = get<bool>(about, "normalises_labels");
  precision = value.contains("precision") ? get<std::string>(value, "precision") : "fp32";
  check(precision == "fp32" || precision == "fp16" || precision == "bf16" || precision == "int8",
        "precision '" + precision + "'");
  const Json& dims = part(value, "dims");
  embed_dim = static_cast<std::size_t>(whole(dims, "embedding", 1, most_dim));
  features_per_image = static_cast<std::size_t>(whole(dims, "features", 1, most_dim));
  label_dim =
      dims.contains("label") ? static_cast<std::size_t>(whole(dims, "label", 1, most_dim)) : embed_dim;
  templates = texts(part(value, "templates"), "templates");
  check(!templates.empty(), "there are no templates");
  for (const auto& text : templates) {
    const auto at = text.find("{}");
    check(at != std::string::npos && text.find("{}", at + 1) == std::string::npos,
          "template '" + text + "'");
  }
  preprocessing = read_preprocessing(part(value, "preprocessing"));
  text = read_text(part(value, "text"));
  const bool learned = value.contains("learned_tokens") && !value["learned_tokens"].is_null();
  if (learned) learned_tokens = read_learned(value["learned_tokens"], text.context_length);
  check(label_dim == (learned ? 2 : 1) * embed_dim, "labels of another width than the features");
  if (value.contains("default_vocabulary") && !value["default_vocabulary"].is_null())
    default_vocabulary = get<std::string>(value, "default_vocabulary");
  std::vector<std::string> needed = {"encoder.onnx", "matcher.onnx", "text_encoder.onnx",
                                     "tokenizer.json", "golden.safetensors"};
  if (learned) needed.push_back("tuned.safetensors");
  for (const auto& name : needed) check(files_.count(name) > 0, "no " + name + " is listed");

  Json parts = {files_["text_encoder.onnx"].sha256, files_["tokenizer.json"].sha256, value["text"]};
  if (learned) {
    parts.push_back(value["learned_tokens"]);
    parts.push_back(files_["tuned.safetensors"].sha256);
  }
  text_hash = short_hash(python_dumps(parts));
  prompt_hash = short_hash(python_dumps(Json::array({templates, normalises_labels})));
  model_hash = short_hash(python_dumps(files_["golden.safetensors"].sha256));
}

fs::path Bundle::file(const std::string& name) const {
  require(files_.count(name) > 0, Code::bundle,
          path.string() + " lists no file '" + name + "'. Export the bundle again.");
  // a large graph keeps its weights beside it, in a file that is named after it
  for (const auto& listed : {name, name + ".data"}) {
    const auto found = files_.find(listed);
    if (found == files_.end()) continue;
    const fs::path place = inside(listed);
    std::error_code failed;
    require(fs::is_regular_file(place, failed), Code::bundle,
            place.string() + " is missing. Copy the whole bundle folder, or export it again.");
    require(fs::file_size(place, failed) == found->second.bytes && !failed &&
                sha256_file(place, Code::bundle) == found->second.sha256,
            Code::bundle,
            place.string() + " was changed after export: its size or SHA-256 is not the one in " +
                manifest_name + ". Copy the bundle again, or export it again.");
  }
  return inside(name);
}

fs::path Bundle::inside(const std::string& name) const {
  const auto outside = [&]() -> fs::path {
    std::string shown = name.substr(0, 80);
    std::replace(shown.begin(), shown.end(), '\0', '?');
    throw Error(Code::bundle, "The bundle " + path.string() + " names '" + shown +
                                  "', which lies outside it. Do not use this bundle.");
  };
  if (name.find('\0') != std::string::npos) return outside();
  std::error_code failed;  // such as of a circle of links, or a name that is too long
  const fs::path place = fs::weakly_canonical(path / name, failed);
  if (failed) return outside();
  const auto [end, _] = std::mismatch(path.begin(), path.end(), place.begin(), place.end());
  return end == path.end() ? place : outside();
}

std::vector<std::string> Bundle::vocabulary_names() const {
  std::vector<std::string> names;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(path / "vocabularies", failed))
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace ovml
