#include "words.h"

#include <sstream>

namespace ovml {

std::shared_ptr<const Vocabulary> vocabulary_of(const Tagger& tagger, const Words& words) {
  if (!words.vocabulary.empty()) return tagger.load_vocabulary(words.vocabulary);
  if (!words.labels.empty()) {
    std::vector<std::string> labels;
    std::istringstream text(words.labels);
    for (std::string label; std::getline(text, label, ',');)
      if (label.find_first_not_of(' ') != label.npos) labels.push_back(label);
    return tagger.make_vocabulary(labels);
  }
  const auto& name = tagger.bundle().default_vocabulary;
  require(name.has_value(), Code::vocabulary,
          "The bundle " + tagger.bundle().path.string() +
              " has no default vocabulary. Give labels or a vocabulary.");
  return tagger.load_vocabulary(*name);
}

Swapper::Swapper(std::shared_ptr<Tagger> tagger, Report report)
    : tagger_(std::move(tagger)), report_(std::move(report)), thread_([this] { work(); }) {}

Swapper::~Swapper() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  asked_.notify_one();
  thread_.join();
}

void Swapper::ask(Words words) {
  {
    const std::lock_guard lock(mutex_);
    next_ = std::move(words);
  }
  asked_.notify_one();
}

void Swapper::work() {
  for (;;) {
    std::unique_lock lock(mutex_);
    asked_.wait(lock, [this] { return ended_ || next_; });
    if (ended_) return;
    const Words words = std::move(*next_);
    next_.reset();
    lock.unlock();
    swap(words);
  }
}

void Swapper::swap(const Words& words) const {
  try {
    const auto vocabulary = vocabulary_of(*tagger_, words);
    tagger_->use_vocabulary(vocabulary);
    report_(words, vocabulary, "");
  } catch (const std::exception& error) {
    report_(words, nullptr, error.what());
  }
}

}  // namespace ovml
