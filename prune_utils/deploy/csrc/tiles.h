// Output pixels cut into tiles, and for every tile and tap where its input pixels lie.
//
// A tile holds any pixels, not a rectangle: they are ordered by the set of taps that stay inside the image, so that most
// tiles of a widely dilated convolution skip whole taps instead of multiplying padding.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace sparse {

struct Geometry {
  struct Axis {
    int kernel, stride, padding, dilation;
    // Input coordinate of a tap for an output coordinate.
    int source(int at, int tap) const { return at * stride - padding + tap * dilation; }
    int out(int size) const {
      int room = size + 2 * padding - dilation * (kernel - 1) - 1;
      return room < 0 ? 0 : room / stride + 1;
    }
  };
  Axis y, x;
  int taps() const { return y.kernel * x.kernel; }
};

struct Run {
  int tile;    // first position in the tile
  int source;  // first pixel in the input plane (for outputs: in the output plane); -1 = padding
  int length;
};

// Lanes of the 16 pixels at source; bit k for pixel k.
struct Load {
  int source;
  uint16_t lanes;
};

struct Tap {
  std::vector<Run> runs;  // empty where the tap meets padding only
  // The same for vectors of 16, where neighbours in a run are neighbours in the image: the loads that fill each vector,
  // other lanes are 0. Two vectors that follow each other have equally many, at least one.
  std::vector<std::vector<Load>> vectors;
  bool empty() const { return runs.empty(); }
};

struct Tile {
  std::vector<Run> output;
  std::vector<Tap> taps;
};

struct Plan {
  int height, width;  // of the input
  int out_h, out_w;
  std::vector<Tile> tiles;
};

struct Pixel {
  int y, x;
};

// Bit k: tap k of this output coordinate lies inside the image.
inline uint64_t reach(int at, int size, const Geometry::Axis& axis) {
  uint64_t inside = 0;
  for (int k = 0; k < axis.kernel; ++k) {
    int source = axis.source(at, k);
    if (source >= 0 && source < size) inside |= uint64_t(1) << k;
  }
  return inside;
}

inline std::vector<Pixel> ordered_pixels(const Plan& plan, const Geometry& g) {
  std::vector<Pixel> pixels;
  pixels.reserve(size_t(plan.out_h) * plan.out_w);
  for (int y = 0; y < plan.out_h; ++y)
    for (int x = 0; x < plan.out_w; ++x) pixels.push_back({y, x});
  constexpr int worth_sorting = 4;  // narrower borders are cheaper to multiply than to scatter
  if (std::max(g.y.padding, g.x.padding) < worth_sorting) return pixels;
  auto runs = [&](int count, int size, const Geometry::Axis& axis) {  // coordinate -> index of its run of equal reach
    std::vector<int> run(count, 0);
    for (int at = 1; at < count; ++at)
      run[at] = run[at - 1] + (reach(at, size, axis) != reach(at - 1, size, axis));
    return run;
  };
  auto rows = runs(plan.out_h, plan.height, g.y), columns = runs(plan.out_w, plan.width, g.x);
  auto key = [&](const Pixel& p) {  // back and forth, so that neighbouring regions share taps
    return std::pair<int, int>(rows[p.y], rows[p.y] % 2 ? -columns[p.x] : columns[p.x]);
  };
  std::stable_sort(pixels.begin(), pixels.end(), [&](const Pixel& a, const Pixel& b) { return key(a) < key(b); });
  return pixels;
}

inline void extend(std::vector<Run>& runs, int position, int source, int step) {
  if (!runs.empty()) {
    Run& last = runs.back();
    bool follows = last.source < 0 ? source < 0 : source == last.source + last.length * step;
    if (follows) {
      ++last.length;
      return;
    }
  }
  runs.push_back({position, source, 1});
}

// size: positions in a tile, a multiple of 32.
inline void plan_loads(Tap& tap, int size) {
  constexpr int lanes = 16;
  tap.vectors.resize(size / lanes);
  for (const Run& run : tap.runs) {
    if (run.source < 0) continue;
    for (int at = run.tile; at < run.tile + run.length;) {
      int vector = at / lanes, end = std::min(run.tile + run.length, (vector + 1) * lanes);
      uint32_t bits = ((1u << (end - at)) - 1) << at % lanes;
      tap.vectors[vector].push_back({run.source + vector * lanes - run.tile, uint16_t(bits)});
      at = end;
    }
  }
  for (size_t at = 0; at < tap.vectors.size(); at += 2) {
    size_t most = std::max({size_t(1), tap.vectors[at].size(), tap.vectors[at + 1].size()});
    tap.vectors[at].resize(most, {0, 0});
    tap.vectors[at + 1].resize(most, {0, 0});
  }
}

inline Tile make_tile(const Pixel* pixels, int count, int size, const Plan& plan, const Geometry& g) {
  Tile tile;
  for (int at = 0; at < count; ++at) extend(tile.output, at, pixels[at].y * plan.out_w + pixels[at].x, 1);
  for (int ky = 0; ky < g.y.kernel; ++ky)
    for (int kx = 0; kx < g.x.kernel; ++kx) {
      std::vector<Run> runs;
      for (int at = 0; at < count; ++at) {
        int y = g.y.source(pixels[at].y, ky), x = g.x.source(pixels[at].x, kx);
        bool inside = y >= 0 && y < plan.height && x >= 0 && x < plan.width;
        extend(runs, at, inside ? y * plan.width + x : -1, g.x.stride);
      }
      if (runs.size() == 1 && runs[0].source < 0) runs.clear();
      Tap tap{std::move(runs), {}};
      if (!tap.empty() && g.x.stride == 1 && size % 32 == 0) plan_loads(tap, size);
      tile.taps.push_back(std::move(tap));
    }
  return tile;
}

inline Plan make_plan(int height, int width, const Geometry& g, int tile_size) {
  Plan plan{height, width, g.y.out(height), g.x.out(width), {}};
  auto pixels = ordered_pixels(plan, g);
  for (size_t at = 0; at < pixels.size(); at += tile_size)
    plan.tiles.push_back(make_tile(&pixels[at], int(std::min<size_t>(tile_size, pixels.size() - at)), tile_size, plan, g));
  return plan;
}

}  // namespace sparse
