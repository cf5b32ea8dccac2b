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

// sums[output][V vectors] += kept weights of the block times packed columns, two outputs at a time.
template <int V>
void walk(const Block& block, const float* packed, float* sums) {
  constexpr int lanes = Vec::size();
  const Shared* shared = block.shared.data();
  const Single* single = block.single.data();
  for (const Pair& pair : block.pairs) {
    float* first_sums = sums + size_t(pair.first) * V * lanes;
    float* second_sums = sums + size_t(pair.second) * V * lanes;
    Vec first[V], second[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      first[v] = Vec::loadu(first_sums + v * lanes);
      second[v] = Vec::loadu(second_sums + v * lanes);
    }
    for (const Shared* end = shared + pair.shared; shared != end; ++shared) {
      const float* pixels = packed + shared->offset;
      Vec a(shared->first), b(shared->second);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        Vec value = Vec::loadu(pixels + v * lanes);
        first[v] = at::vec::fmadd(a, value, first[v]);
        second[v] = at::vec::fmadd(b, value, second[v]);
      }
    }
    for (const Single* end = single + pair.single; single != end; ++single) {
      const float* first_pixels = packed + single->first_offset;
      const float* second_pixels = packed + single->second_offset;
      Vec a(single->first), b(single->second);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        first[v] = at::vec::fmadd(a, Vec::loadu(first_pixels + v * lanes), first[v]);
        second[v] = at::vec::fmadd(b, Vec::loadu(second_pixels + v * lanes), second[v]);
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      first[v].store(first_sums + v * lanes);
      second[v].store(second_sums + v * lanes);
    }
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
