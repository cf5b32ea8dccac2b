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

// Pixels in a register: as an operand in memory they would be loaded by each instruction that reads them.
inline Vec fetched(const float* pixels) {
#if defined(CPU_CAPABILITY_AVX512)
  __m512 value = Vec::loadu(pixels);
  asm("" : "+v"(value));
  return value;
#elif defined(CPU_CAPABILITY_AVX2)
  __m256 value = Vec::loadu(pixels);
  asm("" : "+x"(value));
  return value;
#else
  return Vec::loadu(pixels);
#endif
}

// The input of a convolution: channels, one plane after the other.
struct Planes {
  const float *first, *limit;  // limit: the end of what can be read
  int64_t size;                // pixels of a plane
  int step;                    // the convolution's stride along a row
  const float* of(const Column& column) const { return first + column.channel * size; }
};

#ifdef CPU_CAPABILITY_AVX512
// 16 pixels of a plane by N loads of single lanes, or by as many as there are where N is 0; other lanes are 0. Nothing
// beside the lanes is read.
template <int N>
__m512 gathered(const float* plane, const std::vector<Load>& loads) {
  const int count = N ? N : int(loads.size());
  __m512 value = _mm512_maskz_loadu_ps(loads[0].lanes, plane + loads[0].source);
#pragma GCC unroll 4
  for (int at = 1; at < count; ++at) value = _mm512_mask_loadu_ps(value, loads[at].lanes, plane + loads[at].source);
  return value;
}

// Calls work.template operator()<N>() with N = count, or 0 where that is large.
template <class Work>
void with_count(size_t count, const Work& work) {
  switch (count) {
    case 1: return work.template operator()<1>();
    case 2: return work.template operator()<2>();
    case 3: return work.template operator()<3>();
    default: return work.template operator()<0>();
  }
}
#endif

// Pixels and weights as they are, in 32 bits.
struct Kind32 {
  using Pixel = float;

  // Offsets are those of a column's pixels in the packed block.
  struct Shared {
    uint32_t offset;
    float first, second;
  };

  struct Single {
    uint32_t first_offset, second_offset;
    float first, second;
  };

  static int shared_entries(int shared) { return shared; }
  static int single_entries(int, int rest) { return rest; }

  // The shorter rest is filled up with weights of 0.
  static void enter(const std::vector<Both>& both, std::vector<Own>& rest_a, std::vector<Own>& rest_b, uint32_t stride,
                    std::vector<Shared>& shared, std::vector<Single>& single) {
    for (const Both& at : both) shared.push_back({at.column * stride, at.first, at.second});
    size_t length = std::max(rest_a.size(), rest_b.size());
    rest_a.resize(length, {0, 0.f});
    rest_b.resize(length, {0, 0.f});
    for (size_t at = 0; at < length; ++at)
      single.push_back(
          {rest_a[at].column * stride, rest_b[at].column * stride, rest_a[at].weight, rest_b[at].weight});
  }

  // Packs the columns from begin to end, which read one tap, V vectors each; scratch is not needed.
  template <int V>
  static void put(const Planes& planes, const Tap& tap, const Column* begin, const Column* end, float*, float* to) {
    constexpr int size = V * Vec::size();
#ifdef CPU_CAPABILITY_AVX512
    if (!tap.vectors.empty()) {
      for (int v = 0; v < V; ++v)  // outside, so that a vector's lanes stay in the processor
        with_count(tap.vectors[v].size(), [&]<int N>() {
          float* target = to + v * 16;
          for (const Column* at = begin; at != end; ++at, target += size)
            _mm512_storeu_ps(target, gathered<N>(planes.of(*at), tap.vectors[v]));
        });
      return;
    }
#endif
    for (const Column* at = begin; at != end; ++at, to += size)
      pack(planes.of(*at), planes.limit, tap.runs, planes.step, to);
  }

  // sums[output][V vectors] += kept weights of the block times packed columns, two outputs at a time.
  template <int V>
  static void walk(const Block<Kind32>& block, const float* packed, float* sums) {
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
          Vec value = fetched(pixels + v * lanes);
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
};

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
