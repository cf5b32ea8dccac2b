// Kept weights of one convolution, regrouped for the walk in kernel.h.
//
// A column is one (tap, input channel) pair that at least one kept weight reads. Columns are sorted by tap and cut into
// blocks small enough for their pixels to stay in the first-level cache. In a block, output rows are sorted by
// their number of kept weights: equal loop lengths in a row are what the branch predictor wants.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace sparse {

struct Column {
  int tap;
  int channel;
};

struct Entry {
  uint32_t offset;  // of the column's pixels in the packed block, in floats
  float weight;
};

struct Row {
  int output;
  int count;
};

struct Block {
  std::vector<Column> columns;
  std::vector<int> taps;
  std::vector<Row> rows;
  std::vector<Entry> entries;
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

// stride: floats between two columns of a packed block
inline std::vector<Block> regroup(const float* weight, int outputs, int inputs, int taps, int limit, int stride) {
  auto blocks = cut(used_columns(weight, outputs, inputs, taps), limit);
  for (auto& block : blocks) {
    std::vector<std::vector<Entry>> rows(outputs);
    for (size_t at = 0; at < block.columns.size(); ++at) {
      const auto& column = block.columns[at];
      for (int o = 0; o < outputs; ++o) {
        float value = weight[(size_t(o) * inputs + column.channel) * taps + column.tap];
        if (value != 0) rows[o].push_back({uint32_t(at * stride), value});
      }
    }
    std::vector<int> order(outputs);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rows[a].size() > rows[b].size(); });
    for (int o : order) {
      if (rows[o].empty()) break;
      block.rows.push_back({o, int(rows[o].size())});
      block.entries.insert(block.entries.end(), rows[o].begin(), rows[o].end());
    }
  }
  return blocks;
}

}  // namespace sparse
