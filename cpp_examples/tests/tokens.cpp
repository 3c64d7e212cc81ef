// tokens BUNDLE: for each line of standard input its token ids, or "error MESSAGE".
#include <iostream>

#include "ovml/bundle.h"
#include "ovml/files.h"
#include "ovml/text.h"
#include "ovml/tokenizer.h"

int main(int, char** words) {
  const auto bundle = ovml::Bundle::open(words[1]);
  const ovml::Tokenizer tokenizer(
      ovml::read_file(bundle.file("tokenizer.json"), 64 << 20, ovml::Code::bundle));
  for (std::string line; std::getline(std::cin, line);) {
    try {
      for (const auto id : tokenizer(ovml::clean_text(line, bundle.text.clean),
                                     static_cast<std::size_t>(bundle.text.context_length)))
        std::cout << id << " ";
    } catch (const ovml::Error& error) {
      std::cout << "error " << error.what();
    }
    std::cout << "\n";
  }
}
