// Kept weights of one convolution, regrouped for the walk in kernel.h.
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

// Offsets are those of a column's pixels in the packed block, in floats.
struct Shared {
  uint32_t offset;
  float first, second;
};

struct Single {
  uint32_t first_offset, second_offset;
  float first, second;
};

struct Pair {
  int first, second;  // output rows
  int shared, single;  // entries of each kind
};

struct Block {
  std::vector<Column> columns;
  std::vector<int> taps;
  std::vector<Pair> pairs;
  std::vector<Shared> shared;
  std::vector<Single> single;
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
inline std::vector<Block> cut(const std::vector<std::vector<Column>>& by_tap, int limit) {
  std::vector<Block> blocks;
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
      blocks.back().columns.insert(blocks.back().columns.end(), begin, end);
      blocks.back().taps.push_back(columns[0].tap);
    }
    open = size * 2 < limit;
  }
  return blocks;
}

// Rows of the block that keep anything, longest first.
inline std::vector<Row> rows_of(const Block& block, const float* weight, int outputs, int inputs, int taps) {
  std::vector<Row> rows;
  for (int o = 0; o < outputs; ++o) {
    Row row{o, {}, {}, std::vector<uint64_t>((block.columns.size() + 63) / 64, 0)};
    for (size_t at = 0; at < block.columns.size(); ++at) {
      const auto& column = block.columns[at];
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

// Splits two rows into what they share and what they do not; the shorter rest is filled up with weights of 0.
inline void join(Block& block, const Row& a, const Row& b, int second_output, uint32_t stride) {
  std::vector<std::pair<uint32_t, float>> rest_a, rest_b;
  size_t i = 0, j = 0, shared = block.shared.size();
  while (i < a.columns.size() || j < b.columns.size()) {
    bool has_a = i < a.columns.size(), has_b = j < b.columns.size();
    if (has_a && has_b && a.columns[i] == b.columns[j]) {
      block.shared.push_back({a.columns[i] * stride, a.weights[i], b.weights[j]});
      ++i, ++j;
    } else if (has_a && (!has_b || a.columns[i] < b.columns[j])) {
      rest_a.push_back({a.columns[i] * stride, a.weights[i]});
      ++i;
    } else {
      rest_b.push_back({b.columns[j] * stride, b.weights[j]});
      ++j;
    }
  }
  size_t length = std::max(rest_a.size(), rest_b.size());
  rest_a.resize(length, {0, 0.f});
  rest_b.resize(length, {0, 0.f});
  for (size_t at = 0; at < length; ++at)
    block.single.push_back({rest_a[at].first, rest_b[at].first, rest_a[at].second, rest_b[at].second});
  block.pairs.push_back({a.output, second_output, int(block.shared.size() - shared), int(length)});
}

// Pairs every row with the one of the next few that spares most loads and padding. stride: floats between columns.
inline void pair_up(Block& block, const std::vector<Row>& rows, int outputs, uint32_t stride) {
  constexpr size_t candidates = 24;
  const Row nobody{};
  std::vector<char> taken(rows.size(), 0);
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
    if (best == at)
      join(block, rows[at], nobody, outputs, stride);  // the odd one: its partner's sums are read by nobody
    else
      join(block, rows[at], rows[best], rows[best].output, stride);
  }
}

inline std::vector<Block> regroup(const float* weight, int outputs, int inputs, int taps, int limit, int stride) {
  auto blocks = cut(used_columns(weight, outputs, inputs, taps), limit);
  for (auto& block : blocks) pair_up(block, rows_of(block, weight, outputs, inputs, taps), outputs, uint32_t(stride));
  return blocks;
}

}  // namespace sparse
