/* ovml: the C interface. Plain C, for other languages; no C++ exception crosses it.
 *
 * Every function that can fail returns an ovml_code; ovml_message() then says what was wrong and what
 * to do. All functions may be called from many threads at once, but an object must not be freed
 * while another thread uses it. Texts are UTF-8. */
#ifndef OVML_H
#define OVML_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OVML_API __attribute__((visibility("default")))

typedef enum {
  OVML_OK = 0,
  OVML_ARGUMENT = 1,   /* a call that makes no sense */
  OVML_BUNDLE = 2,     /* a bundle that is missing, damaged, of another version, or unsafe */
  OVML_IMAGE = 3,      /* an image that cannot be read, or is too large */
  OVML_LABEL = 4,      /* a label that cannot be used */
  OVML_VOCABULARY = 5, /* a vocabulary that does not fit the model, or cannot be read */
  OVML_DEVICE = 6,     /* a device that fails or gives wrong answers */
  OVML_MEMORY = 7,     /* out of memory */
  OVML_INTERNAL = 8    /* a defect of this library */
} ovml_code;

typedef struct ovml_tagger ovml_tagger; /* an opened bundle with a vocabulary in use */
typedef struct ovml_tags ovml_tags;     /* the tags of one image */

/* Which tags are returned. top_k: at most so many, 0: all. threshold: only scores of at least this;
 * below 0: the calibrated vocabulary's own, or none. */
typedef struct {
  size_t top_k;
  double threshold;
} ovml_selection;

/* What the last call that failed on this thread had to say; never NULL. Valid until the next one. */
OVML_API const char* ovml_message(void);

/* Open a bundle on the CPU in fp32, on as many threads as the CPU quota allows, and check it on its
 * golden images. Uses the bundle's default vocabulary, if it has one. device: "openvino", "cpu" (ONNX
 * Runtime), or "auto", which ovml_open takes: OpenVINO where it is built in, else ONNX Runtime. */
OVML_API ovml_code ovml_open(const char* bundle, ovml_tagger** tagger);
OVML_API ovml_code ovml_open_on(const char* bundle, const char* device, ovml_tagger** tagger);
OVML_API void ovml_close(ovml_tagger* tagger); /* NULL is fine, as for every function that frees */

/* Swap the vocabulary, atomically, while other threads are tagging. On failure the old one stays. */
OVML_API ovml_code ovml_use_labels(ovml_tagger* tagger, const char* const* labels, size_t count);
/* source: the name of one in the bundle, a .safetensors file, or a file with a label a line. */
OVML_API ovml_code ovml_use_vocabulary(ovml_tagger* tagger, const char* source);

/* What to tell of the vocabulary in use, such as labels that the tokenizer does not know; "" if nothing.
 * Valid until the next call of this function on this thread. */
OVML_API const char* ovml_warning(const ovml_tagger* tagger);

/* Tag an image: a JPEG or PNG file, its bytes, or RGB pixels (rows `stride` bytes apart). selection:
 * NULL stands for {5, -1}. Free *tags with ovml_free_tags. */
OVML_API ovml_code ovml_tag_file(const ovml_tagger* tagger, const char* path,
                                 const ovml_selection* selection, ovml_tags** tags);
OVML_API ovml_code ovml_tag_bytes(const ovml_tagger* tagger, const void* bytes, size_t size,
                                  const ovml_selection* selection, ovml_tags** tags);
OVML_API ovml_code ovml_tag_rgb(const ovml_tagger* tagger, const uint8_t* rgb, int width, int height,
                                ptrdiff_t stride, const ovml_selection* selection, ovml_tags** tags);

/* Tags, best first; of an index beyond the last: NULL, 0 or -1. Texts live as long as the tags. */
OVML_API size_t ovml_count(const ovml_tags* tags);
OVML_API const char* ovml_label(const ovml_tags* tags, size_t index);
OVML_API double ovml_score(const ovml_tags* tags, size_t index);
OVML_API int64_t ovml_query(const ovml_tags* tags, size_t index);
OVML_API const char* ovml_vocabulary_id(const ovml_tags* tags);
OVML_API void ovml_free_tags(ovml_tags* tags);

/* The stages, one by one, for tests and for those who keep features or logits. Each writes at most
 * `capacity` numbers and says in *count how many there are; with a capacity too small it fails with
 * OVML_ARGUMENT, having set *count. */
OVML_API ovml_code ovml_pixels(const ovml_tagger* tagger, const void* image, size_t size,
                               uint8_t* pixels, size_t capacity, size_t* count);
OVML_API ovml_code ovml_features(const ovml_tagger* tagger, const uint8_t* pixels, size_t images,
                                 float* features, size_t capacity, size_t* count);
OVML_API ovml_code ovml_logits(const ovml_tagger* tagger, const float* features, size_t images,
                               float* logits, size_t capacity, size_t* count);
OVML_API ovml_code ovml_token_ids(const ovml_tagger* tagger, const char* text, int64_t* ids,
                                  size_t capacity, size_t* count);

#ifdef __cplusplus
}
#endif
#endif
