// The kernels of csrc/ without PyTorch's tensors: convolutions of random sizes against four plain loops.
// Prints the largest difference, and ends with 1 where that is more than rounding. For processors that the tests of the
// compiled module do not reach: cross-compiled and run by an emulator.
#include <cmath>
#include <cstdio>
#include <random>

#include "kernel.h"

using namespace sparse;

template <int V>
double check(const Geometry& g, int inputs, int outputs, int height, int width, double density, std::mt19937& random) {
  constexpr int size = V * Vec::size();
  std::uniform_real_distribution<float> any(-1.f, 1.f);
  auto sample = [&] { return any(random); };
  const int taps = g.taps();
  std::vector<float> weight(size_t(outputs) * inputs * taps), image(size_t(inputs) * height * width);
  for (auto& value : weight) value = any(random) < 2 * density - 1 ? sample() : 0.f;
  for (auto& value : image) value = sample();
  auto plan = make_plan(height, width, g, size);
  auto blocks = regroup<Kind32>(weight.data(), outputs, inputs, taps, 5, size);
  size_t widest = 1;
  for (const auto& block : blocks) widest = std::max(widest, block.columns.size());
  std::vector<float> packed((widest + 1) * size), sums(size_t(outputs + 1) * size), scratch(size + 64);
  const size_t pixels = size_t(plan.out_h) * plan.out_w;
  std::vector<float> out(outputs * pixels);
  Planes planes{image.data(), image.data() + image.size(), int64_t(height) * width, g.x.stride};
  for (const Tile& tile : plan.tiles) {
    std::fill(sums.begin(), sums.end(), 0.5f);
    for (const auto& block : blocks) {
      for (const Part& part : block.parts) {
        float* target = packed.data() + part.begin * size;
        const Column* columns = block.columns.data();
        if (tile.taps[part.tap].empty())
          std::fill_n(target, (part.end - part.begin) * size, 0.f);
        else
          Kind32::put<V>(planes, tile.taps[part.tap], columns + part.begin, columns + part.end, scratch.data(), target);
      }
      Kind32::walk<V>(block, packed.data(), sums.data());
    }
    for (int o = 0; o < outputs; ++o) write(&sums[o * size], tile.output, true, nullptr, &out[o * pixels]);
  }
  double worst = 0;
  for (int o = 0; o < outputs; ++o)
    for (int y = 0; y < plan.out_h; ++y)
      for (int x = 0; x < plan.out_w; ++x) {
        double sum = 0.5;
        for (int i = 0; i < inputs; ++i)
          for (int ky = 0; ky < g.y.kernel; ++ky)
            for (int kx = 0; kx < g.x.kernel; ++kx) {
              int row = g.y.source(y, ky), column = g.x.source(x, kx);
              if (row < 0 || row >= height || column < 0 || column >= width) continue;
              double factor = weight[(size_t(o) * inputs + i) * taps + ky * g.x.kernel + kx];
              sum += factor * image[(size_t(i) * height + row) * width + column];
            }
        worst = std::max(worst, std::abs(std::max(sum, 0.0) - out[o * pixels + size_t(y) * plan.out_w + x]));
      }
  return worst;
}

int main() {
  std::mt19937 random(1);
  auto draw = [&](int low, int high) { return low + int(random() % (high - low + 1)); };
  double worst = 0;
  for (int round = 0; round < 60; ++round) {
    auto axis = [&] {
      int kernel = 1 + 2 * draw(0, 1), dilation = draw(1, 6);
      return Geometry::Axis{kernel, draw(1, 2), draw(0, 1) * (kernel / 2) * dilation, dilation};
    };
    Geometry g{axis(), axis()};
    int height = draw(13, 30), width = draw(13, 30), inputs = draw(1, 6), outputs = draw(1, 9);
    double density = draw(1, 10) / 10.0;
    worst = std::max(worst, check<2>(g, inputs, outputs, height, width, density, random));
    worst = std::max(worst, check<6>(g, inputs, outputs, height, width, density, random));
  }
  std::printf("vectors of %d, largest difference %.1e\n", int(Vec::size()), worst);
  return worst < 1e-4 ? 0 : 1;
}
