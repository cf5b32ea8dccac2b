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
  int kernel_h, kernel_w, stride, padding, dilation;
  int taps() const { return kernel_h * kernel_w; }
  int out(int size, int kernel) const { return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1; }
};

struct Run {
  int tile;    // first position in the tile
  int source;  // first pixel in the input plane (for outputs: in the output plane); -1 = padding
  int length;
};

struct Tile {
  std::vector<Run> output;
  std::vector<std::vector<Run>> taps;  // empty where the tap meets padding only
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
inline uint64_t reach(int at, int size, int kernel, const Geometry& g) {
  uint64_t inside = 0;
  for (int k = 0; k < kernel; ++k) {
    int source = at * g.stride - g.padding + k * g.dilation;
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
  if (g.padding < worth_sorting) return pixels;
  auto runs = [&](int count, int size, int kernel) {  // coordinate -> index of its run of equal reach
    std::vector<int> run(count, 0);
    for (int at = 1; at < count; ++at)
      run[at] = run[at - 1] + (reach(at, size, kernel, g) != reach(at - 1, size, kernel, g));
    return run;
  };
  auto rows = runs(plan.out_h, plan.height, g.kernel_h), columns = runs(plan.out_w, plan.width, g.kernel_w);
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

inline Tile make_tile(const Pixel* pixels, int count, const Plan& plan, const Geometry& g) {
  Tile tile;
  for (int at = 0; at < count; ++at) extend(tile.output, at, pixels[at].y * plan.out_w + pixels[at].x, 1);
  for (int ky = 0; ky < g.kernel_h; ++ky)
    for (int kx = 0; kx < g.kernel_w; ++kx) {
      std::vector<Run> runs;
      for (int at = 0; at < count; ++at) {
        int y = pixels[at].y * g.stride - g.padding + ky * g.dilation;
        int x = pixels[at].x * g.stride - g.padding + kx * g.dilation;
        bool inside = y >= 0 && y < plan.height && x >= 0 && x < plan.width;
        extend(runs, at, inside ? y * plan.width + x : -1, g.stride);
      }
      if (runs.size() == 1 && runs[0].source < 0) runs.clear();
      tile.taps.push_back(std::move(runs));
    }
  return tile;
}

inline Plan make_plan(int height, int width, const Geometry& g, int tile_size) {
  Plan plan{height, width, g.out(height, g.kernel_h), g.out(width, g.kernel_w), {}};
  auto pixels = ordered_pixels(plan, g);
  for (size_t at = 0; at < pixels.size(); at += tile_size)
    plan.tiles.push_back(make_tile(&pixels[at], int(std::min<size_t>(tile_size, pixels.size() - at)), plan, g));
  return plan;
}

}  // namespace sparse
