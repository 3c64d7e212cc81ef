// Which words a tagger looks for, as a person types them; and swapping them while frames pass.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "ovml/tagger.h"

namespace ovml {

/// Labels between commas, or the name or file of a vocabulary; both empty: the bundle's default.
struct Words {
  std::string labels, vocabulary;
  bool operator==(const Words& other) const {
    return labels == other.labels && vocabulary == other.vocabulary;
  }
};

/// Encode or load the words. Error where they make no vocabulary that fits, or the bundle has no
/// default.
std::shared_ptr<const Vocabulary> vocabulary_of(const Tagger& tagger, const Words& words);

/// Swaps a tagger's words on a thread of its own, so that nobody waits while new ones are encoded.
///
/// Of words that come faster than they can be encoded, the last ones count. Words that make no
/// vocabulary change nothing. The destructor waits for words that are being encoded.
class Swapper {
 public:
  /// Called on the thread after each attempt: with the vocabulary now in use, or null and why not.
  using Report = std::function<void(const Words&, const std::shared_ptr<const Vocabulary>&,
                                    const std::string& error)>;

  Swapper(std::shared_ptr<Tagger> tagger, Report report);
  ~Swapper();
  Swapper(const Swapper&) = delete;
  Swapper& operator=(const Swapper&) = delete;

  /// Ask for words; returns at once.
  void ask(Words words);

 private:
  void work();
  void swap(const Words& words) const;

  std::shared_ptr<Tagger> tagger_;
  Report report_;
  std::mutex mutex_;
  std::condition_variable asked_;
  std::optional<Words> next_;
  bool ended_ = false;
  std::thread thread_;  // last: it uses all the others
};

}  // namespace ovml
