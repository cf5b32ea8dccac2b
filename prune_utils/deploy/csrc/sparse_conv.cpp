// A convolution that walks its kept weights only. Bound to Python as SparseConv; see deploy/layers.py.
#include <ATen/Parallel.h>
#include <torch/extension.h>

#include <atomic>
#include <map>
#include <mutex>

#include "kernel.h"

namespace sparse {

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
    blocks_ = regroup(dense.data_ptr<float>(), outputs_, inputs_, geometry_.taps(), columns, tile_size());
    for (const auto& block : blocks_) widest_ = std::max(widest_, block.columns.size());
    auto values = bias.contiguous();
    bias_.assign(values.data_ptr<float>(), values.data_ptr<float>() + outputs_);
  }

  // image [N, I, H, W] -> [N, O, h, w] = convolution + bias (+ residual), rectified if relu.
  at::Tensor forward(const at::Tensor& image, const std::optional<at::Tensor>& residual, bool relu) {
    TORCH_CHECK(image.dim() == 4 && image.size(1) == inputs_ && image.scalar_type() == at::kFloat,
                "the convolution takes float32 [N, ", inputs_, ", H, W]");
    auto input = image.contiguous();
    const Plan& plan = plan_for(int(input.size(2)), int(input.size(3)));
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

  const Plan& plan_for(int height, int width) {
    std::lock_guard<std::mutex> guard(lock_);
    auto found = plans_.find({height, width});
    if (found == plans_.end())
      found = plans_.emplace(std::pair(height, width), make_plan(height, width, geometry_, tile_size())).first;
    return found->second;
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
          one_tile(plan.tiles[item % tiles], in + image * inputs_ * plane, limit, plane,
                   residual ? residual + offset : nullptr, relu, to + offset, out_plane);
        }
    });
  }

  void one_tile(const Tile& tile, const float* in, const float* limit, int64_t plane, const float* residual, bool relu,
                float* out, int64_t out_plane) const {
    static thread_local std::vector<float> buffer;  // kept: fresh pages cost more than the arithmetic
    const size_t size = tile_size(), align = 16;
    buffer.resize(std::max(buffer.size(), (widest_ + outputs_ + 2) * size + 2 * align));
    auto address = reinterpret_cast<uintptr_t>(buffer.data());
    float* packed = buffer.data() + (64 - address % 64) % 64 / sizeof(float);
    float* sums = packed + (widest_ + 1) * size;
    for (int o = 0; o < outputs_; ++o) std::fill_n(sums + o * size, size, bias_[o]);
    for (const Block& block : blocks_) {
      if (std::all_of(block.taps.begin(), block.taps.end(), [&](int tap) { return tile.taps[tap].empty(); })) continue;
      float* target = packed;
      for (const Column& column : block.columns) {
        if (tile.taps[column.tap].empty())
          std::fill_n(target, size, 0.f);
        else
          pack(in + column.channel * plane, limit, tile.taps[column.tap], geometry_.x.stride, target);
        target += size;
      }
      step(block, packed, sums);
    }
    for (int o = 0; o < outputs_; ++o)
      write(sums + o * size, tile.output, relu, residual ? residual + o * out_plane : nullptr, out + o * out_plane);
  }

  void step(const Block& block, const float* packed, float* sums) const {
    switch (vectors_) {
      case 2: return walk<2>(block, packed, sums);
      case 4: return walk<4>(block, packed, sums);
      case 6: return walk<6>(block, packed, sums);
      default: return walk<8>(block, packed, sums);
    }
  }

  Geometry geometry_;
  int outputs_, inputs_, vectors_, columns_;
  size_t widest_ = 0;
  std::vector<Block> blocks_;
  std::vector<float> bias_;
  std::map<std::pair<int, int>, Plan> plans_;
  std::mutex lock_;
};

}  // namespace sparse

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  namespace py = pybind11;
  py::class_<sparse::SparseConv>(m, "SparseConv", py::module_local())
      .def(py::init<const at::Tensor&, const at::Tensor&, sparse::SparseConv::Two, sparse::SparseConv::Two,
                    sparse::SparseConv::Two, int, int>())
      .def("forward", &sparse::SparseConv::forward, py::call_guard<py::gil_scoped_release>());
}
