#include "vocabulary.h"

#include <cmath>

#include "files.h"
#include "json.h"
#include "text.h"

namespace ovml {

namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(Code::vocabulary, message); }

Calibration read_calibration(const std::string& facts, std::vector<float> offsets,
                             const std::string& name) {
  const Json value = parse_json(facts, Code::vocabulary, "The calibration of " + name);
  Calibration made;
  made.slope = member<double>(value, "slope", Code::vocabulary, name);
  made.threshold = member<double>(value, "threshold", Code::vocabulary, name);
  made.model_hash = member<std::string>(value, "model_hash", Code::vocabulary, name);
  made.offsets = std::move(offsets);
  if (!(std::isfinite(made.slope) && made.slope >= 0 && made.threshold >= 0 && made.threshold <= 1))
    fail(name + ": its calibration makes no sense. Calibrate it again.");
  return made;
}

bool finite(const std::vector<float>& values) {
  for (const float value : values)
    if (!std::isfinite(value)) return false;
  return true;
}

}  // namespace

std::shared_ptr<const Vocabulary> Vocabulary::make(Vocabulary parts, const std::string& facts) {
  parts.labels = check_labels(parts.labels);
  const std::size_t count = parts.labels.size();
  if (parts.embeddings.shape.size() != 2 || parts.embeddings.shape[0] != count)
    fail("The vocabulary '" + parts.name + "' has " + std::to_string(count) +
         " labels and another number of embeddings. Build it again.");
  if (!finite(parts.embeddings.values))
    fail("The vocabulary '" + parts.name + "' holds embeddings that are not finite.");
  if (parts.calibration &&
      (parts.calibration->offsets.size() != count || !finite(parts.calibration->offsets)))
    fail("The vocabulary '" + parts.name +
         "' has calibration offsets that do not fit. Calibrate it again.");
  Sha256 digest;
  digest.update(python_dumps(Json::array({parts.labels, parts.text_hash, parts.prompt_hash})));
  digest.update(parts.embeddings.values.data(), 4 * parts.embeddings.values.size());
  if (parts.calibration) {
    digest.update(facts);
    digest.update(parts.calibration->offsets.data(), 4 * count);
  }
  parts.id = digest.hex().substr(0, 16);
  return std::make_shared<const Vocabulary>(std::move(parts));
}

std::shared_ptr<const Vocabulary> Vocabulary::load(const std::filesystem::path& path) {
  SafeTensors file = SafeTensors::open(path, Code::vocabulary);
  const auto& metadata = file.metadata();
  const auto said = [&](const char* name) {
    const auto found = metadata.find(name);
    return found == metadata.end() ? std::string() : found->second;
  };
  if (said("format") != "ovml-deploy/vocabulary")
    fail(path.string() + " is not a vocabulary of this project.");
  Vocabulary parts;
  parts.name = path.stem().string();
  parts.text_hash = said("text_hash");
  parts.prompt_hash = said("prompt_hash");
  const auto text = file.bytes("labels").values;
  for (std::size_t start = 0; start <= text.size();) {
    std::size_t end = start;
    while (end < text.size() && text[end] != '\n') ++end;
    parts.labels.emplace_back(reinterpret_cast<const char*>(text.data()) + start, end - start);
    start = end + 1;
  }
  parts.embeddings = file.floats("embeddings");
  const std::string facts = said("calibration");
  if (!facts.empty())
    parts.calibration = read_calibration(facts, file.floats("offsets").values, path.string());
  const auto made = make(std::move(parts), facts);
  if (said("id") != made->id)
    fail(path.string() +
         " was changed after it was written: its content does not match its id. Build "
         "it again with 'ovml-deploy vocab build'.");
  return made;
}

void Vocabulary::check_fits(const Bundle& bundle) const {
  const auto refuse = [&](const char* what, const std::string& mine, const std::string& theirs) {
    fail("The vocabulary '" + name + "' was made for another " + what + " (" + mine + ", not " + theirs +
         "). Build it again: ovml-deploy vocab build labels.txt --engine " + bundle.path.string());
  };
  if (text_hash != bundle.text_hash) refuse("text encoder", text_hash, bundle.text_hash);
  if (prompt_hash != bundle.prompt_hash) refuse("prompt pool", prompt_hash, bundle.prompt_hash);
  if (calibration && !calibration->model_hash.empty() && calibration->model_hash != bundle.model_hash)
    refuse("model", calibration->model_hash, bundle.model_hash);
  if (embeddings.shape[1] != bundle.label_dim)
    refuse("width", std::to_string(embeddings.shape[1]), std::to_string(bundle.label_dim));
}

}  // namespace ovml
