#include "tagger.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "label_file.h"

namespace ovml {

namespace {

constexpr std::size_t checked_images = 2;
constexpr double same_features = 1e-6;

double tolerance(const std::string& precision) {  // as in runtime/precision.py
  return precision == "fp16" ? 1e-2 : precision == "bf16" ? 5e-2 : precision == "int8" ? 1.5e-1 : 1e-4;
}

Input features_input(const Array<float>& features) {
  return {"features", Type::f32, features.shape, features.values.data()};
}

// Logits of one image -> scores, in double; with a calibration its probabilities.
std::vector<double> scores(const std::vector<double>& ranks, bool softmax) {
  std::vector<double> made(ranks.size());
  if (!softmax) {
    std::transform(ranks.begin(), ranks.end(), made.begin(),
                   [](double z) { return 0.5 * (1.0 + std::tanh(0.5 * z)); });
    return made;
  }
  const double most = *std::max_element(ranks.begin(), ranks.end());
  std::transform(ranks.begin(), ranks.end(), made.begin(),
                 [most](double z) { return std::exp(z - most); });
  const double sum = std::accumulate(made.begin(), made.end(), 0.0);
  for (double& value : made) value /= sum;
  return made;
}

std::vector<Tag> select(const float* logits, const std::int64_t* winners, const Vocabulary& vocabulary,
                        const std::string& activation, const Selection& selection) {
  const std::size_t labels = vocabulary.labels.size();
  const auto& calibration = vocabulary.calibration;
  auto threshold = selection.threshold;
  if (!threshold && calibration) threshold = calibration->threshold;
  std::vector<double> ranks(logits, logits + labels);
  if (calibration)
    for (std::size_t i = 0; i < labels; ++i)
      ranks[i] = calibration->slope * ranks[i] + double{calibration->offsets[i]};
  const auto score = scores(ranks, !calibration && activation == "softmax");
  // Ranked before the sigmoid, which makes all great logits the same 1.0; ties in vocabulary order.
  std::vector<std::size_t> order(labels);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t count = selection.top_k == 0 ? labels : std::min(selection.top_k, labels);
  std::partial_sort(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
      [&](std::size_t a, std::size_t b) { return ranks[a] != ranks[b] ? ranks[a] > ranks[b] : a < b; });
  std::vector<Tag> tags;
  for (std::size_t i = 0; i < count; ++i)
    if (const std::size_t k = order[i]; !threshold || score[k] >= *threshold)
      tags.push_back({vocabulary.labels[k], score[k], logits[k], winners[k]});
  return tags;
}

}  // namespace

Tagger::Tagger(const std::filesystem::path& bundle, std::unique_ptr<Backend> backend)
    : bundle_(Bundle::open(bundle)),
      backend_(std::move(backend)),
      encoder_(backend_->load(bundle_, "encoder.onnx")),
      matcher_(backend_->load(bundle_, "matcher.onnx")) {
  check_golden();
  if (bundle_.default_vocabulary) use_vocabulary(load_vocabulary(*bundle_.default_vocabulary));
}

void Tagger::check_golden() const {
  SafeTensors golden = SafeTensors::open(bundle_.file("golden.safetensors"), Code::bundle);
  const auto pixels = golden.bytes("pixels");
  const auto labels = golden.floats("labels"), features = golden.floats("features"),
             logits = golden.floats("logits");
  const std::size_t height = static_cast<std::size_t>(bundle_.preprocessing.height);
  const std::size_t width = static_cast<std::size_t>(bundle_.preprocessing.width);
  const std::size_t image = height * width * 3, per = bundle_.features_per_image * bundle_.embed_dim;
  const std::size_t count = pixels.shape.empty() ? 0 : pixels.shape[0];
  const std::size_t words = labels.shape.empty() ? 0 : labels.shape[0];
  require(count >= checked_images && words > 0 && pixels.values.size() == count * image &&
              features.values.size() == count * per && logits.values.size() == count * words &&
              labels.values.size() == words * bundle_.label_dim,
          Code::bundle, "golden.safetensors does not fit the bundle. Export it again.");
  const auto part = [](const auto& values, std::size_t i, std::size_t size) {
    const auto start = values.begin() + static_cast<std::ptrdiff_t>(i * size);
    return std::decay_t<decltype(values)>(start, start + static_cast<std::ptrdiff_t>(size));
  };
  std::vector<float> ours, theirs, our_logits, their_logits;
  const auto append = [](std::vector<float>& to, const std::vector<float>& more) {
    to.insert(to.end(), more.begin(), more.end());
  };
  for (std::size_t i = 0; i < checked_images; ++i) {
    const auto found = encode(part(pixels.values, i, image));
    const auto matched = matcher_->run(
        {features_input(found), {"labels", Type::f32, labels.shape, labels.values.data()}}, {"logits"});
    append(ours, found.values);
    append(theirs, part(features.values, i, per));
    append(our_logits, matched[0].floats);
    append(their_logits, part(logits.values, i, words));
  }
  require(relative_error(part(ours, 0, per), part(ours, 1, per)) > same_features, Code::device,
          backend_->description() + " gives two different images the same features; it is not used.");
  const double allowed = tolerance(bundle_.precision);
  const double error = std::max(relative_error(ours, theirs), relative_error(our_logits, their_logits));
  require(error <= allowed, Code::device,
          backend_->description() + " does not reproduce PyTorch on " + bundle_.path.string() +
              ": a relative error of " + std::to_string(error) + ". It is not used.");
}

std::shared_ptr<const Tagger::Active> Tagger::active() const {
  auto active = std::atomic_load(&active_);
  require(active != nullptr, Code::vocabulary, "No vocabulary is in use. Give labels or a vocabulary.");
  return active;
}

std::shared_ptr<const Vocabulary> Tagger::vocabulary() const {
  const auto active = std::atomic_load(&active_);
  return active ? active->vocabulary : nullptr;
}

void Tagger::use_vocabulary(std::shared_ptr<const Vocabulary> vocabulary) {
  require(vocabulary != nullptr, Code::argument, "There is no vocabulary to use.");
  vocabulary->check_fits(bundle_);
  auto made = std::make_shared<Active>();
  made->matcher = matcher_->fix("labels", vocabulary->embeddings);
  made->vocabulary = std::move(vocabulary);
  std::atomic_store(&active_, std::shared_ptr<const Active>(std::move(made)));
}

std::shared_ptr<const Vocabulary> Tagger::make_vocabulary(const std::vector<std::string>& labels,
                                                          const std::string& name) const {
  return text_encoder().vocabulary(labels, name);
}

std::shared_ptr<const Vocabulary> Tagger::load_vocabulary(const std::string& source) const {
  const std::filesystem::path path(source);
  if (path.extension() == ".safetensors") return Vocabulary::load(path);
  const auto names = bundle_.vocabulary_names();
  const bool stored = std::find(names.begin(), names.end(), source) != names.end();
  std::error_code failed;
  if (std::filesystem::is_regular_file(path, failed)) {
    const LabelFile file = read_label_file(path);
    try {
      return text_encoder().vocabulary(file.labels, path.stem().string(), file.places);
    } catch (const Error& error) {
      if (error.code != Code::label) throw;
      throw Error(Code::label, path.string() + ": " + error.what());
    }
  }
  require(stored, Code::vocabulary,
          "The bundle " + bundle_.path.string() + " has no vocabulary '" + source +
              "', and there is no such file.");
  return Vocabulary::load(bundle_.inside("vocabularies/" + source + ".safetensors"));
}

const TextEncoder& Tagger::text_encoder() const {
  const std::lock_guard lock(text_mutex_);
  if (!text_encoder_) text_encoder_ = std::make_unique<TextEncoder>(bundle_, *backend_);
  return *text_encoder_;
}

Array<float> Tagger::encode(const std::vector<std::uint8_t>& pixels) const {
  const std::size_t height = static_cast<std::size_t>(bundle_.preprocessing.height);
  const std::size_t width = static_cast<std::size_t>(bundle_.preprocessing.width);
  const std::size_t image = height * width * 3;
  require(!pixels.empty() && pixels.size() % image == 0, Code::argument,
          "Pixels must be [count, " + std::to_string(height) + ", " + std::to_string(width) + ", 3].");
  const std::size_t count = pixels.size() / image;
  auto found =
      encoder_->run({{"pixels", Type::u8, {count, height, width, 3}, pixels.data()}}, {"features"});
  const std::vector<std::size_t> shape = {count, bundle_.features_per_image, bundle_.embed_dim};
  require(found[0].shape == shape && !found[0].floats.empty(), Code::device,
          "The encoder gives features of another shape than the bundle says.");
  return {shape, std::move(found[0].floats)};
}

Array<float> Tagger::logits(const Array<float>& features) const {
  auto found = active()->matcher->run({features_input(features)}, {"logits"});
  return {found[0].shape, std::move(found[0].floats)};
}

std::vector<Result> Tagger::match(const Array<float>& features, const Selection& selection) const {
  require(!selection.threshold || (*selection.threshold >= 0 && *selection.threshold <= 1),
          Code::argument, "A threshold lies between 0 and 1.");
  const auto now = active();
  const auto found = now->matcher->run({features_input(features)}, {"logits", "winners"});
  const std::size_t labels = now->vocabulary->labels.size(), count = features.shape.at(0);
  require(found[0].floats.size() == count * labels && found[1].integers.size() == count * labels,
          Code::device, "The matcher gives logits of another shape than there are labels.");
  std::vector<Result> results;
  for (std::size_t i = 0; i < count; ++i)
    results.push_back({select(&found[0].floats[i * labels], &found[1].integers[i * labels],
                              *now->vocabulary, bundle_.activation, selection),
                       now->vocabulary});
  return results;
}

Result Tagger::tag(const ImageView& image, const Selection& selection) const {
  return match(encode(pixels(image)), selection)[0];
}

Result Tagger::tag(const std::filesystem::path& image, const Selection& selection) const {
  return tag(open_image(image).view(), selection);
}

}  // namespace ovml
