// While threads tag, the vocabulary is swapped: no answer mixes two, none fails.
#include <atomic>
#include <iostream>
#include <set>
#include <thread>

#include "ovml/tagger.h"

int main(int, char** words) {
  ovml::Tagger tagger(words[1], ovml::open_backend(words[3]));
  const auto image = ovml::open_image(words[2]);
  const auto pets = tagger.make_vocabulary({"cat", "dog"}), ships = tagger.make_vocabulary({"ship"});
  const auto features = tagger.encode(tagger.pixels(image.view()));
  std::atomic<bool> done{false};
  std::atomic<int> answers{0}, wrong{0};
  std::vector<std::thread> threads;
  tagger.use_vocabulary(pets);
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      while (!done) {
        try {
          const auto result = tagger.match(features, {0, 0.0})[0];
          std::multiset<std::string> labels;
          for (const auto& tag : result.tags) labels.insert(tag.label);
          const auto& own = result.vocabulary->labels;
          wrong += labels != std::multiset<std::string>(own.begin(), own.end());
        } catch (const std::exception& error) {
          std::cerr << error.what() << "\n";
          ++wrong;
        }
        ++answers;
      }
    });
  for (int i = 0; i < 50 || answers < 50; ++i) tagger.use_vocabulary(i % 2 == 0 ? ships : pets);
  done = true;
  for (auto& thread : threads) thread.join();
  std::cout << answers << " answers, " << wrong << " wrong\n";
  return wrong == 0 ? 0 : 1;
}
