#include "ovml.h"

#include <algorithm>
#include <new>

#include "tagger.h"

struct ovml_tagger {
  ovml::Tagger tagger;
};
struct ovml_tags {
  ovml::Result result;
};

namespace {

using ovml::Code;
using ovml::require;

std::string& message() {
  thread_local std::string text;
  return text;
}

// Run an action; no exception leaves it.
template <typename Action>
ovml_code guarded(const Action& action) noexcept {
  ovml_code code = OVML_INTERNAL;
  try {
    try {
      action();
      return OVML_OK;
    } catch (const ovml::Error& error) {
      code = static_cast<ovml_code>(error.code);
      message() = error.what();
    } catch (const std::bad_alloc&) {
      code = OVML_MEMORY;
      message() = "Out of memory.";
    } catch (const std::exception& error) {
      message() = error.what();
    } catch (...) {
      message() = "An unknown error.";
    }
  } catch (...) {  // no memory even for the message
    return OVML_MEMORY;
  }
  return code;
}

const ovml::Tagger& checked(const ovml_tagger* tagger) {
  require(tagger != nullptr, Code::argument, "The tagger is NULL.");
  return tagger->tagger;
}

template <typename T>
T* given(T* pointer, const char* what) {
  require(pointer != nullptr, Code::argument, std::string(what) + " is NULL.");
  return pointer;
}

ovml::Selection selection_of(const ovml_selection* given) {
  ovml::Selection made;
  if (given == nullptr) return made;
  made.top_k = given->top_k;
  if (!(given->threshold < 0)) made.threshold = given->threshold;
  return made;
}

template <typename T>
void copy_out(const std::vector<T>& values, T* to, std::size_t capacity, std::size_t* count) {
  *given(count, "count") = values.size();
  require(values.size() <= capacity, Code::argument,
          "The capacity is " + std::to_string(capacity) + "; " + std::to_string(values.size()) +
              " numbers are to be written.");
  if (!values.empty()) std::copy(values.begin(), values.end(), given(to, "where to write"));
}

template <typename Image>
ovml_code tag(const ovml_tagger* tagger, const ovml_selection* selection, ovml_tags** tags,
              const Image& image) {
  return guarded([&] {
    *given(tags, "tags") = nullptr;
    const auto& checked_tagger = checked(tagger);
    *tags = new ovml_tags{checked_tagger.tag(image(), selection_of(selection))};
  });
}

const ovml::Tag* tag_at(const ovml_tags* tags, size_t index) {
  return tags != nullptr && index < tags->result.tags.size() ? &tags->result.tags[index] : nullptr;
}

}  // namespace

const char* ovml_message(void) { return message().c_str(); }

ovml_code ovml_open(const char* bundle, ovml_tagger** tagger) {
  return ovml_open_on(bundle, "auto", tagger);
}

ovml_code ovml_open_on(const char* bundle, const char* device, ovml_tagger** tagger) {
  return guarded([&] {
    *given(tagger, "tagger") = nullptr;
    auto backend = ovml::open_backend(given(device, "device"));
    *tagger = new ovml_tagger{ovml::Tagger(given(bundle, "bundle"), std::move(backend))};
  });
}

void ovml_close(ovml_tagger* tagger) { delete tagger; }

ovml_code ovml_use_labels(ovml_tagger* tagger, const char* const* labels, size_t count) {
  return guarded([&] {
    checked(tagger);
    std::vector<std::string> made;
    for (size_t i = 0; i < count; ++i) made.emplace_back(given(given(labels, "labels")[i], "A label"));
    tagger->tagger.use_vocabulary(tagger->tagger.make_vocabulary(made));
  });
}

ovml_code ovml_use_vocabulary(ovml_tagger* tagger, const char* source) {
  return guarded([&] {
    checked(tagger);
    tagger->tagger.use_vocabulary(tagger->tagger.load_vocabulary(given(source, "source")));
  });
}

const char* ovml_warning(const ovml_tagger* tagger) {
  thread_local std::string warning;
  warning.clear();
  guarded([&] {
    if (const auto vocabulary = checked(tagger).vocabulary()) warning = vocabulary->warning;
  });
  return warning.c_str();
}

ovml_code ovml_tag_file(const ovml_tagger* tagger, const char* path, const ovml_selection* selection,
                        ovml_tags** tags) {
  ovml::Image image;
  return tag(tagger, selection, tags, [&] {
    image = ovml::open_image(given(path, "path"));
    return image.view();
  });
}

ovml_code ovml_tag_bytes(const ovml_tagger* tagger, const void* bytes, size_t size,
                         const ovml_selection* selection, ovml_tags** tags) {
  ovml::Image image;
  return tag(tagger, selection, tags, [&] {
    image = ovml::decode_image({static_cast<const char*>(given(bytes, "bytes")), size}, "<bytes>");
    return image.view();
  });
}

ovml_code ovml_tag_rgb(const ovml_tagger* tagger, const uint8_t* rgb, int width, int height,
                       ptrdiff_t stride, const ovml_selection* selection, ovml_tags** tags) {
  return tag(tagger, selection, tags, [&] { return ovml::ImageView{rgb, width, height, stride}; });
}

size_t ovml_count(const ovml_tags* tags) { return tags == nullptr ? 0 : tags->result.tags.size(); }

const char* ovml_label(const ovml_tags* tags, size_t index) {
  const auto* tag = tag_at(tags, index);
  return tag == nullptr ? nullptr : tag->label.c_str();
}

double ovml_score(const ovml_tags* tags, size_t index) {
  const auto* tag = tag_at(tags, index);
  return tag == nullptr ? 0.0 : tag->score;
}

int64_t ovml_query(const ovml_tags* tags, size_t index) {
  const auto* tag = tag_at(tags, index);
  return tag == nullptr ? -1 : tag->query;
}

const char* ovml_vocabulary_id(const ovml_tags* tags) {
  return tags == nullptr ? nullptr : tags->result.vocabulary->id.c_str();
}

void ovml_free_tags(ovml_tags* tags) { delete tags; }

ovml_code ovml_pixels(const ovml_tagger* tagger, const void* image, size_t size, uint8_t* pixels,
                      size_t capacity, size_t* count) {
  return guarded([&] {
    const auto decoded =
        ovml::decode_image({static_cast<const char*>(given(image, "image")), size}, "<bytes>");
    copy_out(checked(tagger).pixels(decoded.view()), pixels, capacity, count);
  });
}

ovml_code ovml_features(const ovml_tagger* tagger, const uint8_t* pixels, size_t images, float* features,
                        size_t capacity, size_t* count) {
  return guarded([&] {
    const auto& input = checked(tagger).bundle().preprocessing;
    const size_t size =
        images * static_cast<size_t>(input.height) * static_cast<size_t>(input.width) * 3;
    const std::vector<uint8_t> all(given(pixels, "pixels"), pixels + size);
    copy_out(checked(tagger).encode(all).values, features, capacity, count);
  });
}

ovml_code ovml_logits(const ovml_tagger* tagger, const float* features, size_t images, float* logits,
                      size_t capacity, size_t* count) {
  return guarded([&] {
    const auto& bundle = checked(tagger).bundle();
    const size_t size = images * bundle.features_per_image * bundle.embed_dim;
    const std::vector<float> all(given(features, "features"), features + size);
    copy_out(checked(tagger).logits({{images, bundle.features_per_image, bundle.embed_dim}, all}).values,
             logits, capacity, count);
  });
}

ovml_code ovml_token_ids(const ovml_tagger* tagger, const char* text, int64_t* ids, size_t capacity,
                         size_t* count) {
  return guarded([&] {
    copy_out(checked(tagger).text_encoder().token_ids(given(text, "text")), ids, capacity, count);
  });
}
