// The Tagger: images in, tags out, with a vocabulary that can be swapped at any moment.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "image.h"
#include "text_encoder.h"
#include "vocabulary.h"

namespace ovml {

/// One label of one image. `score` lies in [0, 1]; with a calibrated vocabulary it is the probability
/// that the label is right. `query`: the index of the feature that matched it best.
struct Tag {
  std::string label;
  double score;
  float logit;
  std::int64_t query;
};

/// The tags of one image, best first, all from one vocabulary.
struct Result {
  std::vector<Tag> tags;
  std::shared_ptr<const Vocabulary> vocabulary;
};

/// Which tags are returned: at most `top_k` (0: all) with a score of at least `threshold` (none: a
/// calibrated vocabulary's own).
struct Selection {
  std::size_t top_k = 5;
  std::optional<double> threshold;
};

/// Tags images with a bundle. All methods may be called from many threads at once.
///
/// A call reads the current vocabulary once, so that all its tags come from that one, however often
/// the vocabulary is swapped meanwhile.
class Tagger {
 public:
  /// Open a bundle (a folder, or a file in one), check it on its golden images, and use its default
  /// vocabulary, if it has one. Errors: Code::bundle, device, vocabulary.
  explicit Tagger(const std::filesystem::path& bundle,
                  std::unique_ptr<Backend> backend = open_backend("auto"));

  const Bundle& bundle() const { return bundle_; }
  const Backend& backend() const { return *backend_; }

  /// The vocabulary in use; null where there is none yet.
  std::shared_ptr<const Vocabulary> vocabulary() const;
  /// Encode labels, without using them.
  std::shared_ptr<const Vocabulary> make_vocabulary(const std::vector<std::string>& labels,
                                                    const std::string& name = "custom") const;
  /// Load the bundle's vocabulary of that name, a .safetensors file, or the labels of a text file.
  std::shared_ptr<const Vocabulary> load_vocabulary(const std::string& source) const;
  /// Swap the vocabulary. Prepares it first, while others go on tagging with the old one; then the
  /// swap is atomic. On an Error the old one stays.
  void use_vocabulary(std::shared_ptr<const Vocabulary> vocabulary);

  /// Image -> the encoder's pixels [height, width, 3].
  std::vector<std::uint8_t> pixels(const ImageView& image) const { return bundle_.preprocessing(image); }
  /// Pixels [count, height, width, 3] -> features [count, M, D].
  Array<float> encode(const std::vector<std::uint8_t>& pixels) const;
  /// Features [count, M, D] -> tags of each image.
  std::vector<Result> match(const Array<float>& features, const Selection& selection = {}) const;
  /// Features -> logits [count, K] of the vocabulary in use.
  Array<float> logits(const Array<float>& features) const;

  Result tag(const ImageView& image, const Selection& selection = {}) const;
  Result tag(const std::filesystem::path& image, const Selection& selection = {}) const;

  const TextEncoder& text_encoder() const;

 private:
  struct Active {
    std::shared_ptr<const Vocabulary> vocabulary;
    std::unique_ptr<Graph> matcher;
  };
  std::shared_ptr<const Active> active() const;
  void check_golden() const;

  Bundle bundle_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Graph> encoder_, matcher_;
  std::shared_ptr<const Active> active_;  // only through std::atomic_load and std::atomic_store
  mutable std::mutex text_mutex_;
  mutable std::unique_ptr<TextEncoder> text_encoder_;
};

}  // namespace ovml
