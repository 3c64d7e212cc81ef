#include "text_encoder.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "files.h"
#include "text.h"

namespace ovml {

namespace {

constexpr std::uint64_t most_tokenizer_bytes = 64u << 20;
constexpr std::size_t prompts_at_once = 128, prompts_a_step = 1024, labels_at_once = 256;
constexpr std::size_t branches = 2;
constexpr double tolerance = 1e-4;

// A row brought to unit norm.
void make_unit(float* row, std::size_t size) {
  float squares = 0;
  for (std::size_t i = 0; i < size; ++i) squares += row[i] * row[i];
  const float norm = std::max(std::sqrt(squares), 1e-12f);
  for (std::size_t i = 0; i < size; ++i) row[i] /= norm;
}

std::string fill(const std::string& text, const std::string& label) {
  const auto at = text.find("{}");
  return text.substr(0, at) + label + text.substr(at + 2);
}

// "label TAB group" -> both, stripped; the group may be empty.
std::pair<std::string, std::string> split_group(const std::string& line) {
  const auto tab = line.find('\t');
  if (tab == line.npos) return {line, ""};
  std::string group = line.substr(tab + 1);
  const auto first = group.find_first_not_of(" \t");
  group = first == group.npos ? "" : group.substr(first, group.find_last_not_of(" \t") - first + 1);
  return {line.substr(0, tab), group};
}

}  // namespace

double relative_error(const std::vector<float>& value, const std::vector<float>& reference) {
  if (value.size() != reference.size()) return INFINITY;
  double most = 0, scale = 1e-12;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (!std::isfinite(value[i])) return INFINITY;
    most = std::max(most, std::fabs(double{value[i]} - double{reference[i]}));
    scale = std::max(scale, std::fabs(double{reference[i]}));
  }
  return most / scale;
}

TextEncoder::TextEncoder(const Bundle& bundle, const Backend& backend)
    : bundle_(bundle),
      tokenizer_(read_file(bundle.file("tokenizer.json"), most_tokenizer_bytes, Code::bundle)),
      graph_(backend.load(bundle, "text_encoder.onnx")) {
  check_golden();
  if (bundle_.learned_tokens) read_tuned();
}

void TextEncoder::check_golden() const {
  SafeTensors golden = SafeTensors::open(bundle_.file("golden.safetensors"), Code::bundle);
  const auto text = golden.bytes("prompts").values;
  const std::string prompts(text.begin(), text.end());
  Rows rows;
  for (std::size_t start = 0; start <= prompts.size();) {
    const auto end = std::min(prompts.find('\n', start), prompts.size());
    try {
      rows.push_back(token_ids(prompts.substr(start, end - start)));
    } catch (const Error& error) {
      if (error.code != Code::label) throw;
      rows.emplace_back();  // a golden prompt that only Python cleans
    }
    start = end + 1;
  }
  const auto expected = golden.floats("text_features").values;
  const std::size_t width = bundle_.embed_dim;
  require(expected.size() == rows.size() * width, Code::bundle,
          "golden.safetensors does not fit the bundle. Export it again.");
  std::vector<float> known;
  Rows readable;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].empty()) continue;
    readable.push_back(rows[i]);
    const auto row = expected.begin() + static_cast<std::ptrdiff_t>(i * width);
    known.insert(known.end(), row, row + static_cast<std::ptrdiff_t>(width));
  }
  require(!readable.empty(), Code::bundle, "golden.safetensors holds no prompt that can be checked.");
  const double error = relative_error(features(readable).values, known);
  require(error <= tolerance, Code::device,
          "The text encoder does not reproduce PyTorch (relative error " + std::to_string(error) + ").");
}

void TextEncoder::read_tuned() {
  SafeTensors file = SafeTensors::open(bundle_.file("tuned.safetensors"), Code::bundle);
  tuned_embeddings_ = file.floats("embeddings");
  const auto text = file.bytes("labels").values;
  for (const auto& line : label_lines({reinterpret_cast<const char*>(text.data()), text.size()})) {
    const auto [label, group] = split_group(line);
    tuned_.emplace(label, Tuned{group, tuned_.size()});
  }
  require(tuned_embeddings_.shape == std::vector<std::size_t>{tuned_.size(), bundle_.label_dim},
          Code::bundle, "tuned.safetensors does not fit the bundle. Export it again.");
}

std::vector<std::int64_t> TextEncoder::token_ids(const std::string& text) const {
  return tokenizer_(clean_text(text, bundle_.text.clean),
                    static_cast<std::size_t>(bundle_.text.context_length));
}

std::shared_ptr<const Vocabulary> TextEncoder::vocabulary(const std::vector<std::string>& given,
                                                          const std::string& name,
                                                          const Places& places) const {
  Vocabulary made;
  made.name = name;
  std::vector<std::string> groups;
  for (const auto& line : given) {
    auto [label, group] = split_group(line);
    require(group.empty() || bundle_.learned_tokens, Code::label,
            "'" + label + "' names the group '" + group + "', but this " + bundle_.head +
                " model has no groups of labels. Leave it away.");
    made.labels.push_back(std::move(label));
    groups.push_back(std::move(group));
  }
  made.labels = check_labels(made.labels, places);
  const std::size_t width = bundle_.label_dim;
  made.embeddings = {{made.labels.size(), width}, std::vector<float>(made.labels.size() * width)};
  float* const embeddings = made.embeddings.values.data();
  std::vector<std::size_t> missing;
  for (std::size_t i = 0; i < made.labels.size(); ++i) {
    const auto known = tuned_.find(made.labels[i]);
    if (known == tuned_.end()) {
      missing.push_back(i);
      continue;
    }
    require(groups[i].empty() || groups[i] == known->second.group, Code::label,
            "'" + made.labels[i] + "' was tuned in the group '" + known->second.group +
                "', so it cannot be in '" + groups[i] + "'. Name no group for it.");
    std::copy_n(&tuned_embeddings_.values[known->second.row * width], width, embeddings + i * width);
  }
  check_distinct(missing, made.labels, groups, places);
  made.warning = warning(missing, made.labels, places);
  const std::size_t prompts = bundle_.learned_tokens ? branches : bundle_.templates.size();
  const std::size_t step = std::min(labels_at_once, std::max<std::size_t>(1, prompts_a_step / prompts));
  for (std::size_t start = 0; start < missing.size(); start += step) {
    const std::size_t end = std::min(start + step, missing.size());
    Rows rows;
    for (std::size_t i = start; i < end; ++i)
      add_prompts(made.labels[missing[i]], groups[missing[i]], rows);
    const auto found = features(rows).values;
    for (std::size_t i = start; i < end; ++i)
      merge(&found[(i - start) * prompts * bundle_.embed_dim], embeddings + missing[i] * width);
  }
  made.text_hash = bundle_.text_hash;
  made.prompt_hash = bundle_.prompt_hash;
  return Vocabulary::make(std::move(made));
}

std::vector<std::int64_t> TextEncoder::one_prompt(const std::string& label,
                                                  const std::string& group) const {
  if (bundle_.learned_tokens)
    return learned_prompt(label, token_ids(fill(bundle_.templates[0], label)), 0, group);
  const auto shortest =
      std::min_element(bundle_.templates.begin(), bundle_.templates.end(),
                       [](const auto& a, const auto& b) { return a.size() < b.size(); });
  return token_ids(fill(*shortest, label));
}

// Error that lists all labels whose prompts have the same ids. Those with the same ids in one prompt
// are compared by all.
void TextEncoder::check_distinct(const std::vector<std::size_t>& which,
                                 const std::vector<std::string>& labels,
                                 const std::vector<std::string>& groups, const Places& places) const {
  std::map<std::vector<std::int64_t>, std::vector<std::size_t>> alike;
  for (const std::size_t i : which) alike[one_prompt(labels[i], groups[i])].push_back(i);
  std::map<std::size_t, std::vector<std::size_t>> same;  // by the first of them
  for (const auto& [ids, some] : alike) {
    if (some.size() == 1) continue;
    std::map<Rows, std::vector<std::size_t>> sets;
    for (const std::size_t i : some) {
      Rows rows;
      add_prompts(labels[i], groups[i], rows);
      sets[std::move(rows)].push_back(i);
    }
    for (const auto& [rows, found] : sets)
      if (found.size() > 1) same[found[0]] = found;
  }
  std::vector<std::string> items;
  for (const auto& [first, found] : same) {
    std::string numbers, names;
    for (const std::size_t i : found) {
      numbers += (numbers.empty() ? "" : ", ") + std::to_string(places.number(i));
      names += (names.empty() ? "'" : ", '") + labels[i] + "'";
    }
    const bool known = tokenizer_.knows(token_ids(labels[first]));
    items.push_back(places.unit + "s " + numbers + " (" + names +
                    (known ? ")" : "; unknown to the tokenizer)"));
  }
  require(items.empty(), Code::label,
          "The model cannot tell these labels apart, because their prompts have the same token ids: " +
              listed(items) + ". Keep one of each.");
}

// What to say of labels of which the tokenizer knows no part; empty: nothing.
std::string TextEncoder::warning(const std::vector<std::size_t>& which,
                                 const std::vector<std::string>& labels, const Places& places) const {
  std::vector<std::string> unknown;
  for (const std::size_t i : which)
    if (!tokenizer_.knows(token_ids(labels[i])))
      unknown.push_back("'" + labels[i] + "' (" + places.unit + " " + std::to_string(places.number(i)) +
                        ")");
  if (unknown.empty()) return "";
  return "The tokenizer does not know any part of these labels, so their scores mean nothing: " +
         listed(unknown) + ". Write them in a language that the model was trained in.";
}

void TextEncoder::add_prompts(const std::string& label, const std::string& group, Rows& rows) const {
  if (!bundle_.learned_tokens) {
    for (const auto& text : bundle_.templates) rows.push_back(token_ids(fill(text, label)));
    return;
  }
  const auto name = token_ids(fill(bundle_.templates[0], label));
  for (std::size_t branch = 0; branch < branches; ++branch)
    rows.push_back(learned_prompt(label, name, branch, group));
}

std::vector<std::int64_t> TextEncoder::learned_prompt(const std::string& label,
                                                      const std::vector<std::int64_t>& name,
                                                      std::size_t branch,
                                                      const std::string& group) const {
  const LearnedTokens& tokens = *bundle_.learned_tokens;
  const auto groups = static_cast<std::int64_t>(tokens.groups.size());
  const std::int64_t start =
      tokens.first_id + static_cast<std::int64_t>(branch) * (tokens.shared + tokens.grouped * groups);
  const auto lead =
      name.begin() + std::min<std::ptrdiff_t>(tokens.lead, static_cast<std::ptrdiff_t>(name.size()));
  std::vector<std::int64_t> ids(name.begin(), lead);
  for (std::int64_t i = 0; i < tokens.shared; ++i) ids.push_back(start + i);
  if (!group.empty()) {
    const auto found = std::find(tokens.groups.begin(), tokens.groups.end(), group);
    require(found != tokens.groups.end(), Code::label, "There is no group '" + group + "'.");
    const std::int64_t first = start + tokens.shared + (found - tokens.groups.begin()) * tokens.grouped;
    for (std::int64_t i = 0; i < tokens.grouped; ++i) ids.push_back(first + i);
  }
  ids.insert(ids.end(), lead, name.end());
  require(ids.size() <= static_cast<std::size_t>(bundle_.text.context_length), Code::label,
          "The prompt of '" + label + "' has " + std::to_string(ids.size()) +
              " tokens, learned ones included; the text tower reads " +
              std::to_string(bundle_.text.context_length) + ". Shorten the label.");
  return ids;
}

void TextEncoder::merge(const float* found, float* embedding) const {
  const std::size_t width = bundle_.embed_dim;
  if (bundle_.learned_tokens) {  // the unit-norm features of both prompts, in a row
    std::copy_n(found, branches * width, embedding);
    for (std::size_t branch = 0; branch < branches; ++branch)
      make_unit(embedding + branch * width, width);
    return;
  }
  const std::size_t prompts = bundle_.templates.size();
  std::vector<float> row(width);
  std::fill_n(embedding, width, 0.0f);
  for (std::size_t p = 0; p < prompts; ++p) {
    std::copy_n(found + p * width, width, row.begin());
    if (bundle_.normalises_labels) make_unit(row.data(), width);
    for (std::size_t i = 0; i < width; ++i) embedding[i] += row[i];
  }
  for (std::size_t i = 0; i < width; ++i) embedding[i] /= static_cast<float>(prompts);
  if (bundle_.normalises_labels) make_unit(embedding, width);
}

Array<float> TextEncoder::features(const Rows& rows) const {
  // texts of like length share a batch, so that little padding is computed
  std::vector<std::size_t> order(rows.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rows[a].size() < rows[b].size(); });
  const std::size_t width = bundle_.embed_dim;
  Array<float> made{{rows.size(), width}, std::vector<float>(rows.size() * width)};
  for (std::size_t start = 0; start < order.size(); start += prompts_at_once) {
    const std::size_t count = std::min(prompts_at_once, order.size() - start);
    const std::size_t length = bundle_.text.any_length
                                   ? rows[order[start + count - 1]].size()
                                   : static_cast<std::size_t>(bundle_.text.context_length);
    std::vector<std::int64_t> ids(count * length, bundle_.text.pad_id), mask(count * length, 0);
    for (std::size_t i = 0; i < count; ++i) {
      const auto& row = rows[order[start + i]];
      std::copy(row.begin(), row.end(), ids.begin() + static_cast<std::ptrdiff_t>(i * length));
      std::fill_n(mask.begin() + static_cast<std::ptrdiff_t>(i * length), row.size(), 1);
    }
    std::vector<Input> inputs = {{"token_ids", Type::i64, {count, length}, ids.data()}};
    if (bundle_.text.needs_mask)
      inputs.push_back({"attention_mask", Type::i64, {count, length}, mask.data()});
    const auto found = graph_->run(inputs, {"text_features"})[0].floats;
    require(found.size() == count * width, Code::device,
            "The text encoder gives features of another width than the bundle says.");
    for (std::size_t i = 0; i < count; ++i)
      std::copy_n(&found[i * width], width, &made.values[order[start + i] * width]);
  }
  return made;
}

}  // namespace ovml
