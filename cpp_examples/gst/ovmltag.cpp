// ovmltag: a GStreamer element that tags the frames passing through it. docs/gstreamer.md
//
// Buffers go on as they came, with an "OvmlTags" meta; a message "ovmltag" on the bus says the same.
#include <gst/base/gstbasetransform.h>
#include <gst/video/video.h>

#include <memory>
#include <mutex>

#include "frames.h"
#include "unwinder.h"
#include "words.h"

// What GStreamer's macros expand to is not ours to warn about.
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wunused-function"

GST_DEBUG_CATEGORY_STATIC(ovmltag_debug);
#define GST_CAT_DEFAULT ovmltag_debug

namespace {

constexpr char meta_name[] = "OvmlTags";
constexpr double own_threshold = -1.0;

enum Property { bundle = 1, device, labels, vocabulary, top_k, threshold, every, post_messages };

// What the properties say; any thread may set them.
struct Settings {
  std::string bundle, device = "auto";
  ovml::Words words;
  ovml::Selection selection;
  guint every = 1;
  bool post_messages = true;
};

struct State {
  std::mutex mutex;  // of these two
  Settings settings;
  std::unique_ptr<ovml::Swapper> swapper;
  // from here on of the streaming thread, or of a stopped element
  std::shared_ptr<ovml::Tagger> tagger;
  std::unique_ptr<ovml::FrameReader> reader;
  guint64 frames = 0;
};

}  // namespace

G_DECLARE_FINAL_TYPE(OvmlTag, ovml_tag, OVML, TAG, GstBaseTransform)

struct _OvmlTag {
  GstBaseTransform parent;
  State* state;
};

G_DEFINE_TYPE(OvmlTag, ovml_tag, GST_TYPE_BASE_TRANSFORM)

namespace {

Settings settings_of(State& state) {
  const std::lock_guard lock(state.mutex);
  return state.settings;
}

std::string text_of(const GValue* value) {
  const char* text = g_value_get_string(value);
  return text == nullptr ? "" : text;
}

void set_property(GObject* object, guint id, const GValue* value, GParamSpec* spec) {
  State& state = *OVML_TAG(object)->state;
  const std::lock_guard lock(state.mutex);
  Settings& settings = state.settings;
  switch (id) {
    case bundle:
      settings.bundle = text_of(value);
      break;
    case device:
      settings.device = text_of(value);
      break;
    case labels:
      settings.words = {text_of(value), ""};
      break;
    case vocabulary:
      settings.words = {"", text_of(value)};
      break;
    case top_k:
      settings.selection.top_k = g_value_get_uint(value);
      break;
    case threshold: {
      const double said = g_value_get_double(value);
      settings.selection.threshold = said < 0 ? std::nullopt : std::optional(said);
      break;
    }
    case every:
      settings.every = g_value_get_uint(value);
      break;
    case post_messages:
      settings.post_messages = g_value_get_boolean(value) != FALSE;
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
      return;
  }
  if ((id == labels || id == vocabulary) && state.swapper) state.swapper->ask(settings.words);
}

void get_property(GObject* object, guint id, GValue* value, GParamSpec* spec) {
  const Settings settings = settings_of(*OVML_TAG(object)->state);
  switch (id) {
    case bundle:
      g_value_set_string(value, settings.bundle.c_str());
      break;
    case device:
      g_value_set_string(value, settings.device.c_str());
      break;
    case labels:
      g_value_set_string(value, settings.words.labels.c_str());
      break;
    case vocabulary:
      g_value_set_string(value, settings.words.vocabulary.c_str());
      break;
    case top_k:
      g_value_set_uint(value, static_cast<guint>(settings.selection.top_k));
      break;
    case threshold:
      g_value_set_double(value, settings.selection.threshold.value_or(own_threshold));
      break;
    case every:
      g_value_set_uint(value, settings.every);
      break;
    case post_messages:
      g_value_set_boolean(value, settings.post_messages);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
  }
}

void post(OvmlTag* self, GstStructure* structure) {
  gst_element_post_message(GST_ELEMENT(self), gst_message_new_element(GST_OBJECT(self), structure));
}

// Tell of labels that the tokenizer does not know.
void warn(OvmlTag* self, const ovml::Vocabulary& now) {
  if (!now.warning.empty())
    GST_ELEMENT_WARNING(self, LIBRARY, SETTINGS, ("%s", now.warning.c_str()), (nullptr));
}

// On the swapper's thread: tell of new words, or of words that were not taken.
void report(OvmlTag* self, const ovml::Words& kept, const ovml::Words& asked,
            const std::shared_ptr<const ovml::Vocabulary>& now, const std::string& error) {
  if (now) {
    post(self, gst_structure_new("ovmltag-words", "vocabulary", G_TYPE_STRING, now->id.c_str(), "count",
                                 G_TYPE_UINT, static_cast<guint>(now->labels.size()), nullptr));
    warn(self, *now);
    return;
  }
  {
    State& state = *self->state;
    const std::lock_guard lock(state.mutex);
    if (state.settings.words == asked) state.settings.words = kept;
  }
  GST_ELEMENT_WARNING(self, LIBRARY, SETTINGS, ("%s", error.c_str()), ("The old words stay in use."));
}

gboolean start(GstBaseTransform* base) {
  OvmlTag* self = OVML_TAG(base);
  if (const char* why = ovml::mixed_unwinders()) {
    GST_ELEMENT_ERROR(self, LIBRARY, INIT, ("%s", why), (nullptr));
    return FALSE;
  }
  State& state = *self->state;
  const Settings settings = settings_of(state);
  try {
    ovml::require(!settings.bundle.empty(), ovml::Code::argument,
                  "There is no bundle. Set the property 'bundle' to its folder.");
    state.tagger = std::make_shared<ovml::Tagger>(settings.bundle, ovml::open_backend(settings.device));
    if (!(settings.words == ovml::Words{}) || state.tagger->vocabulary() == nullptr)
      state.tagger->use_vocabulary(ovml::vocabulary_of(*state.tagger, settings.words));
    warn(self, *state.tagger->vocabulary());
    auto kept = std::make_shared<ovml::Words>(settings.words);
    auto swapper = std::make_unique<ovml::Swapper>(
        state.tagger, [self, kept](const auto& asked, const auto& now, const std::string& error) {
          report(self, *kept, asked, now, error);
          if (now) *kept = asked;
        });
    const std::lock_guard lock(state.mutex);
    state.swapper = std::move(swapper);
    if (!(state.settings.words == settings.words)) state.swapper->ask(state.settings.words);
    state.frames = 0;
    return TRUE;
  } catch (const std::exception& error) {
    state.tagger.reset();
    GST_ELEMENT_ERROR(self, LIBRARY, INIT, ("%s", error.what()), (nullptr));
    return FALSE;
  }
}

gboolean stop(GstBaseTransform* base) {
  State& state = *OVML_TAG(base)->state;
  std::unique_ptr<ovml::Swapper> swapper;
  {
    const std::lock_guard lock(state.mutex);
    swapper = std::move(state.swapper);
  }
  swapper.reset();  // without the lock, which its report takes
  state.tagger.reset();
  state.reader.reset();
  return TRUE;
}

gboolean set_caps(GstBaseTransform* base, GstCaps* caps, GstCaps*) {
  OvmlTag* self = OVML_TAG(base);
  try {
    GstVideoInfo info;
    ovml::require(gst_video_info_from_caps(&info, caps) != FALSE, ovml::Code::image,
                  "The caps do not describe video.");
    self->state->reader = std::make_unique<ovml::FrameReader>(info);
    return TRUE;
  } catch (const std::exception& error) {
    GST_ELEMENT_ERROR(self, STREAM, FORMAT, ("%s", error.what()), (nullptr));
    return FALSE;
  }
}

// A meta needs a writable buffer; one that others hold, too, is copied without its pixels.
GstFlowReturn prepare_output_buffer(GstBaseTransform*, GstBuffer* in, GstBuffer** out) {
  *out = gst_buffer_is_writable(in) ? in : gst_buffer_copy(in);
  return GST_FLOW_OK;
}

template <typename T, typename Set>
void set_array(GstStructure* structure, const char* field, GType type, const std::vector<T>& values,
               const Set& set) {
  GValue array = G_VALUE_INIT;
  g_value_init(&array, GST_TYPE_ARRAY);
  for (const auto& value : values) {
    GValue one = G_VALUE_INIT;
    g_value_init(&one, type);
    set(&one, value);
    gst_value_array_append_and_take_value(&array, &one);
  }
  gst_structure_take_value(structure, field, &array);
}

void describe(GstStructure* structure, const ovml::Result& result) {
  set_array(structure, "labels", G_TYPE_STRING, result.tags,
            [](GValue* to, const ovml::Tag& tag) { g_value_set_string(to, tag.label.c_str()); });
  set_array(structure, "scores", G_TYPE_DOUBLE, result.tags,
            [](GValue* to, const ovml::Tag& tag) { g_value_set_double(to, tag.score); });
  gst_structure_set(structure, "vocabulary", G_TYPE_STRING, result.vocabulary->id.c_str(), nullptr);
}

GstStructure* message_of(OvmlTag* self, guint64 frame, const GstBuffer* buffer) {
  const GstSegment* segment = &GST_BASE_TRANSFORM(self)->segment;
  const auto pts = GST_BUFFER_PTS(buffer);
  const auto time = gst_segment_to_stream_time(segment, GST_FORMAT_TIME, pts);
  return gst_structure_new("ovmltag", "frame", G_TYPE_UINT64, frame, "pts", G_TYPE_UINT64, pts,
                           "stream-time", G_TYPE_UINT64, time, nullptr);
}

void tag(OvmlTag* self, const Settings& settings, guint64 frame, GstBuffer* buffer) {
  State& state = *self->state;
  ovml::Result result;
  state.reader->read(buffer, [&](const ovml::ImageView& image) {
    result = state.tagger->tag(image, settings.selection);  // reads the words in use once
  });
  describe(gst_custom_meta_get_structure(gst_buffer_add_custom_meta(buffer, meta_name)), result);
  if (!settings.post_messages) return;
  GstStructure* message = message_of(self, frame, buffer);
  describe(message, result);
  post(self, message);
}

GstFlowReturn transform_ip(GstBaseTransform* base, GstBuffer* buffer) {
  OvmlTag* self = OVML_TAG(base);
  const Settings settings = settings_of(*self->state);
  const guint64 frame = self->state->frames++;
  if (frame % settings.every != 0) return GST_FLOW_OK;
  try {
    tag(self, settings, frame, buffer);
    return GST_FLOW_OK;
  } catch (const ovml::Error& error) {
    if (error.code == ovml::Code::image) {  // one bad frame, which goes on without tags
      GstStructure* message = message_of(self, frame, buffer);
      gst_structure_set(message, "error", G_TYPE_STRING, error.what(), nullptr);
      post(self, message);
      return GST_FLOW_OK;
    }
    GST_ELEMENT_ERROR(self, LIBRARY, FAILED, ("%s", error.what()), (nullptr));
  } catch (const std::exception& error) {
    GST_ELEMENT_ERROR(self, LIBRARY, FAILED, ("%s", error.what()), (nullptr));
  }
  return GST_FLOW_ERROR;
}

void finalize(GObject* object) {
  delete OVML_TAG(object)->state;
  G_OBJECT_CLASS(ovml_tag_parent_class)->finalize(object);
}

constexpr auto readwrite = static_cast<GParamFlags>(G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS);
constexpr auto at_rest = static_cast<GParamFlags>(readwrite | GST_PARAM_MUTABLE_READY);
constexpr auto any_time = static_cast<GParamFlags>(readwrite | GST_PARAM_MUTABLE_PLAYING);

GParamSpec* text_property(const char* name, const char* blurb, GParamFlags flags,
                          const char* otherwise = nullptr) {
  return g_param_spec_string(name, name, blurb, otherwise, flags);
}

}  // namespace

static void ovml_tag_class_init(OvmlTagClass* type) {
  auto* object = G_OBJECT_CLASS(type);
  object->set_property = set_property;
  object->get_property = get_property;
  object->finalize = finalize;
  g_object_class_install_property(object, bundle,
                                  text_property("bundle", "Folder of the bundle", at_rest));
  g_object_class_install_property(
      object, device,
      text_property("device", "openvino, cpu (ONNX Runtime), or auto, the first of them", at_rest,
                    "auto"));
  g_object_class_install_property(
      object, labels,
      text_property("labels", "Labels, between commas; the last set of this and 'vocabulary' counts",
                    any_time));
  g_object_class_install_property(
      object, vocabulary,
      text_property(
          "vocabulary",
          "Name of a vocabulary in the bundle, a .safetensors file, or a file with a label a line",
          any_time));
  g_object_class_install_property(
      object, top_k,
      g_param_spec_uint("top-k", "top-k", "Most tags a frame; 0: all", 0, G_MAXUINT, 5, any_time));
  g_object_class_install_property(
      object, threshold,
      g_param_spec_double("threshold", "threshold", "Least score of a tag; -1: the vocabulary's own",
                          own_threshold, 1.0, own_threshold, any_time));
  g_object_class_install_property(
      object, every,
      g_param_spec_uint("every", "every", "Tag every n-th frame; the others pass without tags", 1,
                        G_MAXUINT, 1, any_time));
  g_object_class_install_property(
      object, post_messages,
      g_param_spec_boolean("post-messages", "post-messages",
                           "Post a message with the tags of each frame", TRUE, any_time));

  auto* element = GST_ELEMENT_CLASS(type);
  gst_element_class_set_static_metadata(element, "Open-vocabulary tagger", "Filter/Analyzer/Video",
                                        "Tags frames with a bundle of ovml-deploy", "ovml-deploy");
  for (const auto& [name, direction] :
       {std::pair("sink", GST_PAD_SINK), std::pair("src", GST_PAD_SRC)}) {
    GstCaps* caps = gst_caps_from_string(GST_VIDEO_CAPS_MAKE(GST_VIDEO_FORMATS_ALL));
    gst_element_class_add_pad_template(element,
                                       gst_pad_template_new(name, direction, GST_PAD_ALWAYS, caps));
    gst_caps_unref(caps);
  }
  auto* transform = GST_BASE_TRANSFORM_CLASS(type);
  transform->start = start;
  transform->stop = stop;
  transform->set_caps = set_caps;
  transform->prepare_output_buffer = prepare_output_buffer;
  transform->transform_ip = transform_ip;
  transform->transform_ip_on_passthrough = TRUE;
}

static void ovml_tag_init(OvmlTag* self) {
  self->state = new State;
  gst_base_transform_set_passthrough(GST_BASE_TRANSFORM(self), TRUE);  // so allocation is up to others
}

static gboolean plugin_init(GstPlugin* plugin) {
  GST_DEBUG_CATEGORY_INIT(ovmltag_debug, "ovmltag", 0, "open-vocabulary tagger");
  const char* no_tags[] = {nullptr};  // depends on nothing in the frame, so it survives conversions
  if (gst_meta_register_custom(meta_name, no_tags, nullptr, nullptr, nullptr) == nullptr) return FALSE;
  return gst_element_register(plugin, "ovmltag", GST_RANK_NONE, ovml_tag_get_type());
}

#define PACKAGE "ovml-deploy"
GST_PLUGIN_DEFINE(GST_VERSION_MAJOR, GST_VERSION_MINOR, ovmltag, "Open-vocabulary tagging", plugin_init,
                  "1.0", "Apache 2.0", PACKAGE, PACKAGE)
