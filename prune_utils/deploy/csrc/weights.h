// Kept weights of one convolution, regrouped for the walks in kernel.h and kernel16.h.
//
// A column is one (tap, input channel) pair that at least one kept weight reads. Columns are sorted by tap and cut into
// blocks small enough for their pixels to stay in the first-level cache. In a block, output rows are walked in pairs: a
// column that both rows keep is loaded once. Pairs have similar lengths and share as many columns as possible,
// and follow each other by length: equal loop lengths in a row are what the branch predictor wants.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>
#include <vector>

namespace sparse {

struct Column {
  int tap;
  int channel;
};

// Columns from begin to end in a block, which read one tap.
struct Part {
  int tap, begin, end;
};

struct Pair {
  int first, second;  // output rows
  int shared, single;  // entries of each kind
};

// A column that both rows of a pair keep; one that a row keeps alone.
struct Both {
  uint32_t column;
  float first, second;
};

struct Own {
  uint32_t column;
  float weight;
};

// Kind: how pixels and weights are held and walked (kernel.h, kernel16.h), with its entries Shared and Single.
template <class Kind>
struct Block {
  std::vector<Column> columns;
  std::vector<Part> parts;
  std::vector<Pair> pairs;
  std::vector<typename Kind::Shared> shared;
  std::vector<typename Kind::Single> single;
};

// Kept weights of one output row in one block.
struct Row {
  int output;
  std::vector<uint32_t> columns;  // ascending
  std::vector<float> weights;
  std::vector<uint64_t> bits;  // the same columns as a set
};

// weight [outputs, inputs, taps], row-major -> used columns by tap
inline std::vector<std::vector<Column>> used_columns(const float* weight, int outputs, int inputs, int taps) {
  std::vector<char> used(size_t(inputs) * taps, 0);
  for (int o = 0; o < outputs; ++o)
    for (int i = 0; i < inputs * taps; ++i) used[i] |= weight[size_t(o) * inputs * taps + i] != 0;
  std::vector<std::vector<Column>> columns(taps);
  for (int tap = 0; tap < taps; ++tap)
    for (int channel = 0; channel < inputs; ++channel)
      if (used[size_t(channel) * taps + tap]) columns[tap].push_back({tap, channel});
  return columns;
}

// Cuts the columns into blocks of at most `limit`. A tap that fills a block gets its own, so that tiles can skip it.
template <class Kind>
std::vector<Block<Kind>> cut(const std::vector<std::vector<Column>>& by_tap, int limit) {
  std::vector<Block<Kind>> blocks;
  bool open = false;  // whether the last block still takes columns of another tap
  for (const auto& columns : by_tap) {
    int size = int(columns.size());
    if (size == 0) continue;
    int parts = (size + limit - 1) / limit;
    bool joins = open && size * 2 < limit && int(blocks.back().columns.size()) + size <= limit;
    for (int part = 0; part < parts; ++part) {
      if (!joins) blocks.emplace_back();
      auto begin = columns.begin() + int64_t(size) * part / parts;
      auto end = columns.begin() + int64_t(size) * (part + 1) / parts;
      auto& own = blocks.back().columns;
      blocks.back().parts.push_back({columns[0].tap, int(own.size()), int(own.size() + (end - begin))});
      own.insert(own.end(), begin, end);
    }
    open = size * 2 < limit;
  }
  return blocks;
}

// Rows of the block that keep anything, longest first.
inline std::vector<Row> rows_of(const std::vector<Column>& columns, const float* weight, int outputs, int inputs,
                                int taps) {
  std::vector<Row> rows;
  for (int o = 0; o < outputs; ++o) {
    Row row{o, {}, {}, std::vector<uint64_t>((columns.size() + 63) / 64, 0)};
    for (size_t at = 0; at < columns.size(); ++at) {
      const auto& column = columns[at];
      float value = weight[(size_t(o) * inputs + column.channel) * taps + column.tap];
      if (value == 0) continue;
      row.columns.push_back(uint32_t(at));
      row.weights.push_back(value);
      row.bits[at / 64] |= uint64_t(1) << (at % 64);
    }
    if (!row.columns.empty()) rows.push_back(std::move(row));
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.columns.size() > b.columns.size(); });
  return rows;
}

inline int overlap(const Row& a, const Row& b) {
  int common = 0;
  for (size_t word = 0; word < a.bits.size(); ++word) common += std::popcount(a.bits[word] & b.bits[word]);
  return common;
}

// Splits two rows into what they share and what they do not, for the kind to make its entries of.
template <class Kind>
void join(Block<Kind>& block, const Row& a, const Row& b, int second_output, uint32_t stride) {
  std::vector<Both> both;
  std::vector<Own> rest_a, rest_b;
  size_t i = 0, j = 0;
  while (i < a.columns.size() || j < b.columns.size()) {
    bool has_a = i < a.columns.size(), has_b = j < b.columns.size();
    if (has_a && has_b && a.columns[i] == b.columns[j]) {
      both.push_back({a.columns[i], a.weights[i], b.weights[j]});
      ++i, ++j;
    } else if (has_a && (!has_b || a.columns[i] < b.columns[j])) {
      rest_a.push_back({a.columns[i], a.weights[i]});
      ++i;
    } else {
      rest_b.push_back({b.columns[j], b.weights[j]});
      ++j;
    }
  }
  size_t shared = block.shared.size(), single = block.single.size();
  Kind::enter(both, rest_a, rest_b, stride, block.shared, block.single);
  block.pairs.push_back(
      {a.output, second_output, int(block.shared.size() - shared), int(block.single.size() - single)});
}

// Pairs every row with the one of the next few that spares most loads and padding. stride: pixels between columns.
// Pairs whose loops are equally long follow each other.
template <class Kind>
void pair_up(Block<Kind>& block, const std::vector<Row>& rows, int outputs, uint32_t stride) {
  constexpr size_t candidates = 24;
  struct Match {
    const Row *first, *second;
    int output, shared, single;
  };
  const Row nobody{};
  std::vector<char> taken(rows.size(), 0);
  std::vector<Match> matches;
  for (size_t at = 0; at < rows.size(); ++at) {
    if (taken[at]) continue;
    size_t best = at;
    int most = 0;
    for (size_t other = at + 1, seen = 0; other < rows.size() && seen < candidates; ++other) {
      if (taken[other]) continue;
      ++seen;
      int longer = int(rows[at].columns.size()) - int(rows[other].columns.size());
      int spared = overlap(rows[at], rows[other]) - longer;
      if (best == at || spared > most) most = spared, best = other;
    }
    taken[at] = taken[best] = 1;
    bool odd = best == at;  // its partner's sums are read by nobody
    int shared = odd ? 0 : overlap(rows[at], rows[best]), longest = int(rows[at].columns.size());
    matches.push_back({&rows[at], odd ? &nobody : &rows[best], odd ? outputs : rows[best].output,
                       Kind::shared_entries(shared), Kind::single_entries(shared, longest - shared)});
  }
  std::stable_sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
    return std::pair(a.single, a.shared) > std::pair(b.single, b.shared);
  });
  for (const Match& match : matches) join(block, *match.first, *match.second, match.output, stride);
}

template <class Kind>
std::vector<Block<Kind>> regroup(const float* weight, int outputs, int inputs, int taps, int limit, int stride) {
  auto blocks = cut<Kind>(used_columns(weight, outputs, inputs, taps), limit);
  for (auto& block : blocks)
    pair_up(block, rows_of(block.columns, weight, outputs, inputs, taps), outputs, uint32_t(stride));
  return blocks;
}

}  // namespace sparse
