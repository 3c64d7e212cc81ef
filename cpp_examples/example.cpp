#include <iostream>

#include "ovml/tagger.h"

int main(int count, char** words) {
  try {
    ovml::Tagger tagger(words[1]);  // checks itself against PyTorch's golden outputs
    tagger.use_vocabulary(tagger.make_vocabulary({"cat", "rocket", "coffee"}));
    for (int i = 2; i < count; ++i)
      for (const auto& tag : tagger.tag(std::filesystem::path(words[i]), {2, 0.1}).tags)
        std::cout << words[i] << ": " << tag.label << " " << tag.score << "\n";
  } catch (const ovml::Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.code);
  }
}
