// tag_image --bundle DIR [--labels a,b,c | --vocab NAME|FILE] [--top-k 5] [--threshold T]
//           [--format table|json] [--device auto|openvino|cpu] IMAGE...
//
// Prints the tags of images, as 'ovml-deploy tag' does. Exit codes: 0 all well; 1 an error, nothing
// done; 2 a wrong command line; 3 finished, but some images failed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <future>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>

#include "ovml/tagger.h"

namespace {

constexpr int some_failed = 3;
constexpr std::size_t images_at_once = 8;

struct Options {
  std::string bundle, labels, vocabulary, format = "table", device = "auto";
  ovml::Selection selection;
  std::vector<std::string> images;
};

double number(const std::string& text) {
  std::size_t used = 0;
  try {
    const double value = std::stod(text, &used);
    if (used == text.size() && std::isfinite(value)) return value;
  } catch (const std::logic_error&) {
  }
  throw ovml::Error(ovml::Code::argument, "'" + text + "' is not a number.");
}

Options parse(const std::vector<std::string>& words) {
  Options made;
  std::set<std::string> given;
  const auto wrong = [](const std::string& why) -> void {
    throw ovml::Error(ovml::Code::argument, why +
                                                " Usage: tag_image --bundle DIR [--labels a,b,c | "
                                                "--vocab NAME|FILE] [--top-k 5] [--threshold T] "
                                                "[--format table|json] [--device auto|openvino|cpu] "
                                                "IMAGE...");
  };
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word.substr(0, 2) != "--") {
      made.images.push_back(word);
      continue;
    }
    if (i + 1 == words.size() || words[i + 1].substr(0, 2) == "--") wrong(word + " needs a value.");
    if (!given.insert(word).second) wrong(word + " is given twice.");
    const std::string& value = words[++i];
    if (word == "--bundle") made.bundle = value;
    else if (word == "--labels") made.labels = value;
    else if (word == "--vocab") made.vocabulary = value;
    else if (word == "--format") made.format = value;
    else if (word == "--device") made.device = value;
    else if (word == "--threshold") made.selection.threshold = number(value);
    else if (word == "--top-k") {
      const double count = number(value);
      if (count < 1 || count > 1e9 || count != std::floor(count)) wrong("--top-k is at least 1.");
      made.selection.top_k = static_cast<std::size_t>(count);
    } else wrong("Unknown option " + word + ".");
  }
  if (made.bundle.empty()) wrong("--bundle is missing.");
  if (made.images.empty()) wrong("There are no images.");
  if (!made.labels.empty() && !made.vocabulary.empty()) wrong("Give --vocab or --labels, not both.");
  if (made.format != "table" && made.format != "json") wrong("Unknown format '" + made.format + "'.");
  if (const auto t = made.selection.threshold; t && (*t < 0 || *t > 1)) wrong("Scores lie in [0, 1].");
  return made;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') parts.emplace_back();
    else parts.back() += c;
  }
  parts.erase(std::remove_if(parts.begin(), parts.end(),
                             [](const auto& part) { return part.find_first_not_of(' ') == part.npos; }),
              parts.end());
  return parts;
}

std::string in_json(const std::string& image, const std::string& vocabulary, const ovml::Result* result,
                    const std::string& error) {
  nlohmann::ordered_json value = {{"image", image}, {"vocabulary", vocabulary}};
  if (result == nullptr) value["error"] = error;
  else value["tags"] = nlohmann::json::array();
  if (result != nullptr)
    for (const auto& tag : result->tags) {
      nlohmann::ordered_json one = {{"label", tag.label}, {"score", tag.score}, {"query", tag.query}};
      value["tags"].push_back(std::move(one));
    }
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string in_table(const std::string& image, const ovml::Result* result) {
  std::string line = image;
  if (result == nullptr) return line + "  (failed)";
  for (const auto& tag : result->tags) {
    char score[16];
    std::snprintf(score, sizeof score, "%.2f", tag.score);
    line += "  " + tag.label + " " + score;
  }
  return line;
}

// Images at once: the pixels of those that can be read, and an error (empty: none) for each.
struct Batch {
  std::vector<std::uint8_t> pixels;
  std::vector<std::string> errors;
};

Batch read_batch(const ovml::Tagger& tagger, const std::vector<std::string>& images, std::size_t start) {
  Batch batch;
  for (std::size_t i = start; i < std::min(start + images_at_once, images.size()); ++i) {
    batch.errors.emplace_back();
    try {
      const auto pixels = tagger.pixels(ovml::open_image(images[i]).view());
      batch.pixels.insert(batch.pixels.end(), pixels.begin(), pixels.end());
    } catch (const ovml::Error& error) {
      if (error.code != ovml::Code::image) throw;
      batch.errors.back() = error.what();
    }
  }
  return batch;
}

int run(const Options& options) {
  ovml::Tagger tagger(options.bundle, ovml::open_backend(options.device));
  if (!options.labels.empty()) tagger.use_vocabulary(tagger.make_vocabulary(split(options.labels)));
  if (!options.vocabulary.empty()) tagger.use_vocabulary(tagger.load_vocabulary(options.vocabulary));
  const auto vocabulary = tagger.vocabulary();
  ovml::require(vocabulary != nullptr, ovml::Code::vocabulary,
                "The bundle has no default vocabulary. Give --labels or --vocab.");
  if (!vocabulary->warning.empty()) std::cerr << "warning: " << vocabulary->warning << "\n";
  const auto read = [&](std::size_t start) {
    return std::async(std::launch::async,
                      [&tagger, &options, start] { return read_batch(tagger, options.images, start); });
  };
  const bool json = options.format == "json";
  std::vector<std::string> failures;
  auto next = read(0);
  for (std::size_t start = 0; start < options.images.size(); start += images_at_once) {
    const Batch batch = next.get();
    next = read(start + images_at_once);  // decoded while these are encoded
    std::vector<ovml::Result> results;
    if (!batch.pixels.empty()) results = tagger.match(tagger.encode(batch.pixels), options.selection);
    std::size_t good = 0;
    for (std::size_t i = 0; i < batch.errors.size(); ++i) {
      const std::string &image = options.images[start + i], &error = batch.errors[i];
      const auto* result = error.empty() ? &results[good++] : nullptr;
      if (result == nullptr) failures.push_back(error);
      if (json)
        std::cout << (start + i == 0 ? "[\n" : ",\n") << in_json(image, vocabulary->id, result, error);
      else std::cout << in_table(image, result) << "\n";
    }
  }
  if (json) std::cout << "\n]\n";
  std::cout.flush();
  for (const auto& failure : failures) std::cerr << "failed: " << failure << "\n";
  return failures.empty() ? 0 : some_failed;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(parse({words + 1, words + count}));
  } catch (const ovml::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return error.code == ovml::Code::argument ? 2 : 1;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
