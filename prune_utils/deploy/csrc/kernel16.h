// The walk in bfloat16: two columns a multiply-add, sums in 32 bits. For processors with AVX512-BF16.
#pragma once

#include "kernel.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

namespace sparse {

// Pixels and weights rounded to bfloat16. Two columns of a row are walked at once: their pixels are interleaved in
// registers, and the processor adds both products to a sum of 32 bits.
struct Kind16 {
  using Pixel = uint16_t;

  // Two columns that both rows keep, and the rows' weights of them (the first column's in the low half).
  struct Shared {
    uint32_t one, other;
    uint32_t first, second;
  };

  // Two columns of the first row, two of the second.
  struct Single {
    uint32_t first_one, first_other, second_one, second_other;
    uint32_t first, second;
  };

  // The nearest bfloat16, ties to even; weights are finite.
  static uint32_t rounded(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  }

  static uint32_t two(float low, float high) { return rounded(low) | rounded(high) << 16; }

  static int shared_entries(int shared) { return shared / 2; }
  static int single_entries(int shared, int rest) { return (rest + shared % 2 + 1) / 2; }

  // An odd shared column goes to both rows' own; what then has no partner gets one with a weight of 0.
  static void enter(const std::vector<Both>& both, std::vector<Own>& rest_a, std::vector<Own>& rest_b, uint32_t stride,
                    std::vector<Shared>& shared, std::vector<Single>& single) {
    size_t even = both.size() / 2 * 2;
    for (size_t at = 0; at < even; at += 2) {
      const Both &one = both[at], &other = both[at + 1];
      shared.push_back({one.column * stride, other.column * stride, two(one.first, other.first),
                        two(one.second, other.second)});
    }
    if (even < both.size()) {
      rest_a.push_back({both.back().column, both.back().first});
      rest_b.push_back({both.back().column, both.back().second});
    }
    size_t length = (std::max(rest_a.size(), rest_b.size()) + 1) / 2 * 2;
    rest_a.resize(length, {0, 0.f});
    rest_b.resize(length, {0, 0.f});
    for (size_t at = 0; at < length; at += 2) {
      const Own &a = rest_a[at], &a2 = rest_a[at + 1], &b = rest_b[at], &b2 = rest_b[at + 1];
      single.push_back({a.column * stride, a2.column * stride, b.column * stride, b2.column * stride,
                        two(a.weight, a2.weight), two(b.weight, b2.weight)});
    }
  }

  // Packs the columns from begin to end, which read one tap, V vectors each. In every 32 pixels the first and second
  // 16 are mixed by fours, so that unpacking below, which works within 128 bits, gives 16 neighbours each.
  template <int V>
  static void put(const Planes& planes, const Tap& tap, const Column* begin, const Column* end, float* scratch,
                  uint16_t* to) {
    static_assert(V % 2 == 0);
    constexpr int size = V * 16;
    if (!tap.vectors.empty()) {
      for (int v = 0; v < V; v += 2)
        with_count(tap.vectors[v].size(), [&]<int N>() {
          uint16_t* target = to + v * 16;
          for (const Column* at = begin; at != end; ++at, target += size) {
            const float* plane = planes.of(*at);
            mix(gathered<N>(plane, tap.vectors[v]), gathered<N>(plane, tap.vectors[v + 1]), target);
          }
        });
      return;
    }
    for (const Column* at = begin; at != end; ++at, to += size) {
      pack(planes.of(*at), planes.limit, tap.runs, planes.step, scratch);
#pragma GCC unroll 16
      for (int v = 0; v < V; v += 2)
        mix(_mm512_loadu_ps(scratch + v * 16), _mm512_loadu_ps(scratch + v * 16 + 16), to + v * 16);
    }
  }

  static void mix(__m512 first, __m512 second, uint16_t* to) {
    const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, both));
  }

  // 32 pixels in a register: as an operand in memory they would be loaded by both unpackings.
  static __m512i fetched(const uint16_t* pixels) {
    __m512i value = _mm512_loadu_si512(pixels);
    asm("" : "+v"(value));
    return value;
  }

  // sums[output][V vectors of 16] += kept weights of the block times packed columns, two outputs and columns at a time.
  template <int V>
  static void walk(const Block<Kind16>& block, const uint16_t* packed, float* sums) {
    static_assert(V % 2 == 0);
    const Shared* shared = block.shared.data();
    const Single* single = block.single.data();
    for (const Pair& pair : block.pairs) {
      float* first_sums = sums + size_t(pair.first) * V * 16;
      float* second_sums = sums + size_t(pair.second) * V * 16;
      __m512 first[V], second[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        first[v] = _mm512_loadu_ps(first_sums + v * 16);
        second[v] = _mm512_loadu_ps(second_sums + v * 16);
      }
      for (const Shared* end = shared + pair.shared; shared != end; ++shared) {
        const uint16_t *one = packed + shared->one, *other = packed + shared->other;
        const __m512bh a = (__m512bh)_mm512_set1_epi32(shared->first), b = (__m512bh)_mm512_set1_epi32(shared->second);
#pragma GCC unroll 16
        for (int v = 0; v < V; v += 2) {
          const __m512i x = fetched(one + v * 16), y = fetched(other + v * 16);
          const __m512bh low = (__m512bh)_mm512_unpacklo_epi16(x, y), high = (__m512bh)_mm512_unpackhi_epi16(x, y);
          first[v] = _mm512_dpbf16_ps(first[v], low, a);
          first[v + 1] = _mm512_dpbf16_ps(first[v + 1], high, a);
          second[v] = _mm512_dpbf16_ps(second[v], low, b);
          second[v + 1] = _mm512_dpbf16_ps(second[v + 1], high, b);
        }
      }
      for (const Single* end = single + pair.single; single != end; ++single) {
        const uint16_t *one = packed + single->first_one, *other = packed + single->first_other;
        const uint16_t *third = packed + single->second_one, *fourth = packed + single->second_other;
        const __m512bh a = (__m512bh)_mm512_set1_epi32(single->first), b = (__m512bh)_mm512_set1_epi32(single->second);
#pragma GCC unroll 16
        for (int v = 0; v < V; v += 2) {
          const __m512i x = fetched(one + v * 16), y = fetched(other + v * 16);
          first[v] = _mm512_dpbf16_ps(first[v], (__m512bh)_mm512_unpacklo_epi16(x, y), a);
          first[v + 1] = _mm512_dpbf16_ps(first[v + 1], (__m512bh)_mm512_unpackhi_epi16(x, y), a);
          const __m512i s = fetched(third + v * 16), t = fetched(fourth + v * 16);
          second[v] = _mm512_dpbf16_ps(second[v], (__m512bh)_mm512_unpacklo_epi16(s, t), b);
          second[v + 1] = _mm512_dpbf16_ps(second[v + 1], (__m512bh)_mm512_unpackhi_epi16(s, t), b);
        }
      }
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        _mm512_storeu_ps(first_sums + v * 16, first[v]);
        _mm512_storeu_ps(second_sums + v * 16, second[v]);
      }
    }
  }
};

}  // namespace sparse
#endif
