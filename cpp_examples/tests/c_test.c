/* The C interface, from C: an image is tagged, and every misuse gets a code and a message. */
#include <stdio.h>
#include <string.h>

#include "ovml/ovml.h"

static int failures = 0;

static void expect(int holds, const char* what) {
  if (holds) return;
  failures += 1;
  fprintf(stderr, "failed: %s (%s)\n", what, ovml_message());
}

int main(int count, char** words) {
  ovml_tagger* tagger = NULL;
  ovml_tags* tags = NULL;
  const char* labels[] = {"cat", "boat"};
  const char* twice[] = {"cat", "cat"};
  const ovml_selection selection = {2, -1.0};
  if (count != 4) return 2;

  expect(ovml_open("/nonexistent", &tagger) == OVML_BUNDLE && tagger == NULL, "no bundle");
  expect(strstr(ovml_message(), "/nonexistent") != NULL, "the message names it");
  expect(ovml_open(NULL, &tagger) == OVML_ARGUMENT, "NULL");
  expect(ovml_open_on(words[1], "abacus", &tagger) == OVML_ARGUMENT, "no such device");
  expect(strstr(ovml_message(), "'abacus'") != NULL, "the message names it");
  expect(ovml_open(words[1], &tagger) == OVML_OK, "open");
  ovml_close(tagger);
  expect(ovml_open_on(words[1], words[3], &tagger) == OVML_OK, "open on a device");
  expect(ovml_use_labels(tagger, labels, 2) == OVML_OK, "labels");
  expect(ovml_use_labels(tagger, twice, 2) == OVML_LABEL, "the same label twice");
  expect(ovml_use_labels(tagger, labels, 0) == OVML_LABEL, "no label");
  expect(ovml_use_vocabulary(tagger, "none such") == OVML_VOCABULARY, "no vocabulary");
  expect(ovml_tag_file(tagger, words[2], &selection, &tags) == OVML_OK, "tag");
  expect(ovml_count(tags) == 2 && strcmp(ovml_label(tags, 0), "cat") == 0, "a cat");
  expect(ovml_score(tags, 0) > ovml_score(tags, 1), "best first");
  expect(strlen(ovml_vocabulary_id(tags)) == 16, "the vocabulary's id");
  expect(ovml_label(tags, 2) == NULL && ovml_query(tags, 2) == -1, "beyond the last");
  ovml_free_tags(tags);
  expect(ovml_tag_bytes(tagger, "junk", 4, NULL, &tags) == OVML_IMAGE && tags == NULL, "junk");
  expect(ovml_tag_rgb(tagger, NULL, 1, 1, 3, NULL, &tags) == OVML_IMAGE, "no pixels");
  expect(ovml_tag_rgb(tagger, (const uint8_t*)"\1\2\3", 1, 1, 3, NULL, &tags) == OVML_OK, "one pixel");
  ovml_free_tags(tags);
  expect(ovml_tag_file(NULL, words[2], NULL, &tags) == OVML_ARGUMENT, "no tagger");
  ovml_free_tags(NULL);
  ovml_close(tagger);
  ovml_close(NULL);
  return failures;
}
