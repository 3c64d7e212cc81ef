// tag_stream --bundle DIR [--device auto] [--labels a,b,c | --vocab NAME|FILE] [--fps 2] [--top-k 5]
//            [--threshold T] FILE|PIPELINE
//
// Prints the time (seconds) and the tags of frames of a film, or of what a GStreamer pipeline such as
// "v4l2src" or "rtspsrc location=... ! decodebin" gives. Exit codes: 0 all well; 1 an error; 2 a wrong
// command line; 3 finished, but some frames failed.
#include <gst/app/gstappsink.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <set>
#include <string_view>

#include "frames.h"
#include "words.h"

namespace {

constexpr GstClockTime patience = 100 * GST_MSECOND;

template <typename T, void (*release)(T*)>
struct Release {
  void operator()(T* value) const { release(value); }
};
void unref(void* object) { gst_object_unref(object); }
void free_message(GstMessage* message) { gst_message_unref(message); }
void free_sample(GstSample* sample) { gst_sample_unref(sample); }
template <typename T>
using Object = std::unique_ptr<T, Release<void, unref>>;
using Message = std::unique_ptr<GstMessage, Release<GstMessage, free_message>>;
using Sample = std::unique_ptr<GstSample, Release<GstSample, free_sample>>;

struct Options {
  std::string bundle, device = "auto", source;
  ovml::Words words;
  ovml::Selection selection;
  double fps = 2.0;
};

[[noreturn]] void wrong(const std::string& why) {
  throw ovml::Error(ovml::Code::argument, why +
                                              " Usage: tag_stream --bundle DIR [--device auto] "
                                              "[--labels a,b,c | --vocab NAME|FILE] [--fps 2] "
                                              "[--top-k 5] [--threshold T] FILE|PIPELINE");
}

double number(const std::string& text, double least, double most) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= least && value <= most))
    wrong("'" + text + "' is not a number that fits here.");
  return value;
}

Options parse(const std::vector<std::string>& words) {
  Options made;
  std::set<std::string> given;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word.substr(0, 2) != "--") {
      if (!made.source.empty()) wrong("There are two sources. Put a pipeline into quotes.");
      made.source = word;
      continue;
    }
    if (++i == words.size() || words[i].substr(0, 2) == "--") wrong(word + " needs a value.");
    if (!given.insert(word).second) wrong(word + " is given twice.");
    if (word == "--bundle") made.bundle = words[i];
    else if (word == "--device") made.device = words[i];
    else if (word == "--labels") made.words.labels = words[i];
    else if (word == "--vocab") made.words.vocabulary = words[i];
    else if (word == "--fps") made.fps = number(words[i], 1e-3, 1e3);
    else if (word == "--top-k")
      made.selection.top_k = static_cast<std::size_t>(number(words[i], 1, 1e9));
    else if (word == "--threshold") made.selection.threshold = number(words[i], 0, 1);
    else wrong("Unknown option " + word + ".");
  }
  if (made.bundle.empty()) wrong("--bundle is missing.");
  if (made.source.empty()) wrong("There is no film and no pipeline.");
  if (!made.words.labels.empty() && !made.words.vocabulary.empty())
    wrong("Give --vocab or --labels, not both.");
  return made;
}

[[noreturn]] void fail(const std::string& message) { throw ovml::Error(ovml::Code::image, message); }

Object<GstElement> pipeline_of(const std::string& source) {
  const bool file = std::filesystem::is_regular_file(source);
  // videoflip turns a rotated video upright
  const std::string reader =
      "filesrc name=source ! decodebin ! videoconvert ! videoflip video-direction=auto";
  const std::string text =
      (file ? reader : source) + " ! appsink name=sink caps=video/x-raw sync=false max-buffers=1";
  GError* error = nullptr;
  Object<GstElement> made(gst_parse_launch(text.c_str(), &error));
  if (error != nullptr) {
    const std::string why = error->message;
    g_error_free(error);
    fail("'" + source + "' is no file, and no pipeline: " + why);
  }
  if (file) {
    const Object<GstElement> location(gst_bin_get_by_name(GST_BIN(made.get()), "source"));
    g_object_set(location.get(), "location", source.c_str(), nullptr);
  }
  return made;
}

void check(GstElement* pipeline) {
  const Object<GstBus> bus(gst_element_get_bus(pipeline));
  const Message message(gst_bus_pop_filtered(bus.get(), GST_MESSAGE_ERROR));
  if (!message) return;
  GError* error = nullptr;
  gchar* more = nullptr;  // where in the source, and on its last line, if any, what in particular
  gst_message_parse_error(message.get(), &error, &more);
  std::string why = error->message;
  const std::string_view details = more == nullptr ? "" : more;
  if (const auto line = details.rfind('\n'); line != details.npos) {
    why += ' ';
    why += details.substr(line + 1);
  }
  g_error_free(error);
  g_free(more);
  fail(why);
}

void print(double time, const ovml::Result& result) {
  std::printf("%.3f", time);
  for (const auto& tag : result.tags) std::printf("  %s %.2f", tag.label.c_str(), tag.score);
  std::printf("\n");
  std::fflush(stdout);
}

// Tags every frame that comes at or after the next moment asked for; false for one that fails.
class Stream {
 public:
  Stream(const Options& options)
      : tagger_(options.bundle, ovml::open_backend(options.device)), options_(options) {
    tagger_.use_vocabulary(ovml::vocabulary_of(tagger_, options.words));
  }

  bool show(GstSample* sample) {
    GstBuffer* buffer = gst_sample_get_buffer(sample);
    const auto stamp = gst_segment_to_stream_time(gst_sample_get_segment(sample), GST_FORMAT_TIME,
                                                  GST_BUFFER_PTS(buffer));
    const double time = GST_CLOCK_TIME_IS_VALID(stamp) ? static_cast<double>(stamp) / GST_SECOND : next_;
    if (time < next_) return true;
    next_ = (std::floor(time * options_.fps + 1e-6) + 1.0) / options_.fps - 1e-6;
    try {
      reader(gst_sample_get_caps(sample)).read(buffer, [&](const ovml::ImageView& image) {
        print(time, tagger_.tag(image, options_.selection));
      });
      return true;
    } catch (const ovml::Error& error) {
      if (error.code != ovml::Code::image) throw;
      std::fprintf(stderr, "failed: %.3f: %s\n", time, error.what());
      return false;
    }
  }

 private:
  ovml::FrameReader& reader(const GstCaps* caps) {
    GstVideoInfo info;
    if (gst_video_info_from_caps(&info, caps) == FALSE) fail("A frame's caps do not describe it.");
    if (!reader_ || gst_video_info_is_equal(&info, &info_) == FALSE)
      reader_ = std::make_unique<ovml::FrameReader>(info);
    info_ = info;
    return *reader_;
  }

  ovml::Tagger tagger_;
  const Options& options_;
  std::unique_ptr<ovml::FrameReader> reader_;
  GstVideoInfo info_ = {};
  double next_ = 0.0;
};

int run(const Options& options) {
  Stream stream(options);
  const auto pipeline = pipeline_of(options.source);
  const Object<GstAppSink> sink(GST_APP_SINK(gst_bin_get_by_name(GST_BIN(pipeline.get()), "sink")));
  const auto stop = [](GstElement* running) { gst_element_set_state(running, GST_STATE_NULL); };
  const std::unique_ptr<GstElement, decltype(stop)> running(pipeline.get(), stop);
  // a camera does not wait: of its frames the newest is tagged
  const bool live =
      gst_element_set_state(pipeline.get(), GST_STATE_PAUSED) == GST_STATE_CHANGE_NO_PREROLL;
  gst_app_sink_set_drop(sink.get(), live);
  gst_element_set_state(pipeline.get(), GST_STATE_PLAYING);
  bool all = true;
  while (gst_app_sink_is_eos(sink.get()) == FALSE) {
    const Sample sample(gst_app_sink_try_pull_sample(sink.get(), patience));
    if (sample) all &= stream.show(sample.get());
    else check(pipeline.get());
  }
  check(pipeline.get());
  return all ? 0 : 3;
}

}  // namespace

int main(int count, char** words) {
  gst_init(&count, &words);
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
