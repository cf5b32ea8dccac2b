// A convolution that walks its kept weights only. Bound to Python as SparseConv; see deploy/layers.py.
#include <ATen/Parallel.h>
#include <torch/extension.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>

#include "kernel.h"
#include "kernel16.h"

namespace sparse {

template <class Kind>
class SparseConv {
 public:
  using Two = std::pair<int, int>;  // height, width

  // weight [O, I, kh, kw] and bias [O], float32, pruned weights 0. vectors: tile size in vectors; columns: block size.
  SparseConv(const at::Tensor& weight, const at::Tensor& bias, Two stride, Two padding, Two dilation, int vectors,
             int columns)
      : geometry_{{int(weight.size(2)), stride.first, padding.first, dilation.first},
                  {int(weight.size(3)), stride.second, padding.second, dilation.second}},
        outputs_(int(weight.size(0))),
        inputs_(int(weight.size(1))),
        vectors_(vectors),
        columns_(columns) {
    TORCH_CHECK(weight.scalar_type() == at::kFloat && bias.scalar_type() == at::kFloat, "float32 only");
    TORCH_CHECK(vectors == 2 || vectors == 4 || vectors == 6 || vectors == 8, "vectors is 2, 4, 6 or 8");
    auto dense = weight.contiguous();
    blocks_ = regroup<Kind>(dense.data_ptr<float>(), outputs_, inputs_, geometry_.taps(), columns, tile_size());
    for (const auto& block : blocks_) widest_ = std::max(widest_, block.columns.size());
    auto values = bias.contiguous();
    bias_.assign(values.data_ptr<float>(), values.data_ptr<float>() + outputs_);
  }

  // image [N, I, H, W] -> [N, O, h, w] = convolution + bias (+ residual), rectified if relu.
  at::Tensor forward(const at::Tensor& image, const std::optional<at::Tensor>& residual, bool relu) {
    TORCH_CHECK(image.dim() == 4 && image.size(1) == inputs_ && image.scalar_type() == at::kFloat,
                "the convolution takes float32 [N, ", inputs_, ", H, W]");
    auto input = image.contiguous();
    const auto kept = plan_for(int(input.size(2)), int(input.size(3)));
    const Plan& plan = *kept;
    TORCH_CHECK(plan.out_h > 0 && plan.out_w > 0, "the image is smaller than the kernel");
    auto out = at::empty({input.size(0), outputs_, plan.out_h, plan.out_w}, input.options());
    at::Tensor added;
    if (residual) {
      TORCH_CHECK(residual->sizes() == out.sizes(), "the residual has another shape than the output");
      added = residual->contiguous();
    }
    run(plan, input, residual ? added.data_ptr<float>() : nullptr, relu, out);
    return out;
  }

 private:
  int tile_size() const { return vectors_ * Vec::size(); }

  // The plans of the last few image sizes are kept.
  std::shared_ptr<const Plan> plan_for(int height, int width) {
    constexpr size_t most = 8;
    std::lock_guard<std::mutex> guard(lock_);
    for (const auto& plan : plans_)
      if (plan->height == height && plan->width == width) return plan;
    if (plans_.size() == most) plans_.pop_front();
    plans_.push_back(std::make_shared<const Plan>(make_plan(height, width, geometry_, tile_size())));
    return plans_.back();
  }

  void run(const Plan& plan, const at::Tensor& input, const float* residual, bool relu, at::Tensor& out) {
    const float* in = input.data_ptr<float>();
    const float* limit = in + input.numel();
    float* to = out.data_ptr<float>();
    const int64_t plane = input.size(2) * input.size(3), out_plane = int64_t(plan.out_h) * plan.out_w;
    const int64_t tiles = plan.tiles.size(), work = tiles * input.size(0);
    std::atomic<int64_t> next{0};
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), work), 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker)
        for (int64_t item = next++; item < work; item = next++) {
          int64_t image = item / tiles, offset = image * outputs_ * out_plane;
          Planes planes{in + image * inputs_ * plane, limit, plane, geometry_.x.stride};
          one_tile(plan.tiles[item % tiles], planes, residual ? residual + offset : nullptr, relu, to + offset,
                   out_plane);
        }
    });
  }

  void one_tile(const Tile& tile, const Planes& planes, const float* residual, bool relu, float* out,
                int64_t out_plane) const {
    using Pixel = typename Kind::Pixel;
    static thread_local std::vector<float> buffer;  // kept: fresh pages cost more than the arithmetic
    const size_t size = tile_size(), align = 16, packed_floats = (widest_ + 1) * size * sizeof(Pixel) / sizeof(float);
    buffer.resize(std::max(buffer.size(), packed_floats + (outputs_ + 3) * size + 2 * align));
    auto address = reinterpret_cast<uintptr_t>(buffer.data());
    float* aligned = buffer.data() + (64 - address % 64) % 64 / sizeof(float);
    Pixel* packed = reinterpret_cast<Pixel*>(aligned);
    float* sums = aligned + packed_floats;
    float* scratch = sums + (outputs_ + 1) * size;  // with a vector to spare behind
    for (int o = 0; o < outputs_; ++o) std::fill_n(sums + o * size, size, bias_[o]);
    switch (vectors_) {
      case 2: add<2>(tile, planes, packed, sums, scratch); break;
      case 4: add<4>(tile, planes, packed, sums, scratch); break;
      case 6: add<6>(tile, planes, packed, sums, scratch); break;
      default: add<8>(tile, planes, packed, sums, scratch);
    }
    for (int o = 0; o < outputs_; ++o)
      write(sums + o * size, tile.output, relu, residual ? residual + o * out_plane : nullptr, out + o * out_plane);
  }

  // Adds every block's products for a tile of V vectors to the sums.
  template <int V>
  void add(const Tile& tile, const Planes& planes, typename Kind::Pixel* packed, float* sums, float* scratch) const {
    constexpr int size = V * Vec::size();
    for (const auto& block : blocks_) {
      auto meets = [&](const Part& part) { return !tile.taps[part.tap].empty(); };
      if (std::none_of(block.parts.begin(), block.parts.end(), meets)) continue;
      for (const Part& part : block.parts) {
        auto* target = packed + part.begin * size;
        const Column* columns = block.columns.data();
        if (meets(part))
          Kind::template put<V>(planes, tile.taps[part.tap], columns + part.begin, columns + part.end, scratch, target);
        else
          std::fill_n(target, (part.end - part.begin) * size, typename Kind::Pixel(0));
      }
      Kind::template walk<V>(block, packed, sums);
    }
  }

  Geometry geometry_;
  int outputs_, inputs_, vectors_, columns_;
  size_t widest_ = 0;
  std::vector<Block<Kind>> blocks_;
  std::vector<float> bias_;
  std::deque<std::shared_ptr<const Plan>> plans_;
  std::mutex lock_;
};

}  // namespace sparse

template <class Kind>
void bind(pybind11::module_& m, const char* name) {
  namespace py = pybind11;
  using Conv = sparse::SparseConv<Kind>;
  py::class_<Conv>(m, name, py::module_local())
      .def(py::init<const at::Tensor&, const at::Tensor&, typename Conv::Two, typename Conv::Two, typename Conv::Two, int,
                    int>())
      .def("forward", &Conv::forward, py::call_guard<py::gil_scoped_release>());
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  bind<sparse::Kind32>(m, "SparseConv");
#ifdef __AVX512BF16__
  bind<sparse::Kind16>(m, "SparseConv16");
#endif
}
