// pixels BUNDLE.JSON IMAGE...: for each image "ok COUNT" and the encoder's pixels, or "error MESSAGE".
#include <iostream>

#include "ovml/bundle.h"
#include "ovml/files.h"

int main(int count, char** words) {
  const ovml::Bundle bundle("/", ovml::read_file(words[1], 1 << 20, ovml::Code::bundle));
  for (int i = 2; i < count; ++i) {
    try {
      const auto pixels = bundle.preprocessing(ovml::open_image(words[i]).view());
      std::cout << "ok " << pixels.size() << "\n";
      std::cout.write(reinterpret_cast<const char*>(pixels.data()),
                      static_cast<std::streamsize>(pixels.size()));
    } catch (const ovml::Error& error) {
      std::cout << "error " << error.what() << "\n";
    }
  }
}
