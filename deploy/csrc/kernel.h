// One tile of pixels through one convolution: pack a block of columns, walk its kept weights, write the result.
#pragma once

#include <ATen/cpu/vec/vec.h>

#include <cstring>

#include "tiles.h"
#include "weights.h"

namespace sparse {

using Vec = at::vec::Vectorized<float>;

// Copies one column's pixels into the tile. Whole vectors are written past a run's end, the next run overwrites
// them; `limit` ends the readable input, and the packed block has a vector to spare.
inline void pack(const float* plane, const float* limit, const std::vector<Run>& runs, int step, float* to) {
  for (const Run& run : runs) {
    float* target = to + run.tile;
    if (run.source < 0) {
      for (int at = 0; at < run.length; at += Vec::size()) Vec(0.f).store(target + at);
    } else if (step == 1 && plane + run.source + run.length + Vec::size() <= limit) {
      const float* from = plane + run.source;
      for (int at = 0; at < run.length; at += Vec::size()) Vec::loadu(from + at).store(target + at);
    } else {
      for (int at = 0; at < run.length; ++at) target[at] = plane[run.source + at * step];
    }
  }
}

// sums[output][V vectors] += kept weights of the block times packed columns.
template <int V>
void walk(const Block& block, const float* packed, float* sums) {
  const Entry* entry = block.entries.data();
  for (const Row& row : block.rows) {
    float* target = sums + size_t(row.output) * V * Vec::size();
    Vec sum[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[v] = Vec::loadu(target + v * Vec::size());
    for (const Entry* end = entry + row.count; entry != end; ++entry) {
      const float* pixels = packed + entry->offset;
      Vec weight(entry->weight);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[v] = at::vec::fmadd(weight, Vec::loadu(pixels + v * Vec::size()), sum[v]);
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[v].store(target + v * Vec::size());
  }
}

// out and residual: planes of one channel. residual may be null.
inline void write(const float* sums, const std::vector<Run>& runs, bool relu, const float* residual, float* out) {
  for (const Run& run : runs)
    for (int at = 0; at < run.length; at += Vec::size()) {
      int count = std::min(Vec::size(), run.length - at);
      Vec value = Vec::loadu(sums + run.tile + at);
      if (residual) value = value + Vec::loadu(residual + run.source + at, count);
      if (relu) value = at::vec::maximum(value, Vec(0.f));
      value.store(out + run.source + at, count);
    }
}

}  // namespace sparse
