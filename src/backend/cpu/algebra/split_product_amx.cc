#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "backend/cpu/algebra/split_product.h"
#include "backend/cpu/algebra/split_tiles.h"
#include "base/math.h"

namespace nibble::cpu {
namespace {

// Sizes of packed blocks: both operands stay in the L2 cache.
constexpr int64_t kDepthBlock = 256;
constexpr int64_t kRowBlock = 256;
constexpr int64_t kColumnBlock = 512;
constexpr int64_t kNoDiagonal = -kPairLines;  // so far to the left that nothing is skipped

bool Ask() {
  __builtin_cpu_init();
  for (const bool has :
       {__builtin_cpu_supports("avx512f") != 0, __builtin_cpu_supports("avx512bw") != 0,
        __builtin_cpu_supports("avx512dq") != 0, __builtin_cpu_supports("avx512vl") != 0,
        __builtin_cpu_supports("avx512bf16") != 0}) {
    if (!has) return false;
  }
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  // Linux saves tile registers only for processes that request it.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

struct Steps {
  int64_t begin;
  int64_t end;
};

// The steps of depth from `k` on in which some of the lines [first, first + kPairLines) are not
// zero.
Steps NonZeroSteps(const TileOperand& operand, int64_t first, int64_t k, int64_t steps) {
  if (!operand.upper) return {0, steps};
  if (operand.depth_major) {
    const int64_t end = first + kPairLines + operand.upper_from;  // of depth
    return {0, std::clamp<int64_t>(CeilDiv(end - k, kTileDepth), 0, steps)};
  }
  const int64_t begin = first - operand.upper_from;
  return {std::clamp<int64_t>((begin - k) / kTileDepth, 0, steps), steps};
}

struct Panels {
  static constexpr int64_t kBytesPerElement = 6;
  static constexpr size_t kSizeA = kRowBlock * kDepthBlock * kBytesPerElement;
  static constexpr size_t kSizeB = kColumnBlock * kDepthBlock * kBytesPerElement;
  alignas(64) char a[kSizeA];
  alignas(64) char b[kSizeB];
  alignas(64) float sums[kPairLines * kPairLines];
};

struct Tiles {
  Tiles() { StartTiles(); }
  ~Tiles() { StopTiles(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

}  // namespace

bool HasTileProducts() {
  static const bool has = Ask();
  return has;
}

void TileProduct(const TileOperand& a, const TileOperand& b, int64_t m, int64_t n, int64_t depth,
                 float alpha, const TileTarget& c) {
  thread_local std::unique_ptr<Panels> panels;
  if (panels == nullptr) panels = std::make_unique<Panels>();
  const Tiles tiles;
  for (int64_t col0 = 0; col0 < n; col0 += kColumnBlock) {
    const int64_t cols = std::min(kColumnBlock, n - col0);
    for (int64_t k = 0; k < depth; k += kDepthBlock) {
      const int64_t some = std::min(kDepthBlock, depth - k);
      const int64_t steps = CeilDiv(some, kTileDepth);
      const int64_t panel_bytes = steps * kStepBytes;
      PackTiles(b, col0, cols, k, some, false, panels->b);
      for (int64_t row0 = 0; row0 < m; row0 += kRowBlock) {
        if (c.upper_only && row0 >= col0 + cols) break;
        const int64_t rows = std::min(kRowBlock, m - row0);
        PackTiles(a, row0, rows, k, some, true, panels->a);
        for (int64_t col = 0; col < cols; col += kPairLines) {
          const char* const b0 = panels->b + col / kTileLines * panel_bytes;
          const char* const b1 = cols - col > kTileLines ? b0 + panel_bytes : b0;
          const int64_t width = std::min(kPairLines, cols - col);
          const Steps of_b = NonZeroSteps(b, col0 + col, k, steps);
          for (int64_t row = 0; row < rows; row += kPairLines) {
            const int64_t height = std::min(kPairLines, rows - row);
            // How far the diagonal lies to the right of this corner.
            const int64_t skip = row0 + row - (col0 + col);
            if (c.upper_only && skip >= width) break;
            float* const to = c.data + (row0 + row) * c.stride + col0 + col;
            const bool set = c.set && k == 0;
            const Steps of_a = NonZeroSteps(a, row0 + row, k, steps);
            const int64_t begin = std::max(of_a.begin, of_b.begin);
            const int64_t some_steps = std::min(of_a.end, of_b.end) - begin;
            if (some_steps <= 0 && !set) continue;
            if (!set) PrefetchTarget(to, height, width, c.stride);
            const char* const a0 = panels->a + row / kTileLines * panel_bytes;
            const char* const a1 = rows - row > kTileLines ? a0 + panel_bytes : a0;
            const int64_t at = begin * kStepBytes;
            MultiplyTiles(a0 + at, a1 + at, b0 + at, b1 + at, some_steps, panels->sums);
            AddSums(panels->sums, height, width, c.upper_only ? skip : kNoDiagonal, alpha, set, to,
                    c.stride);
          }
        }
      }
    }
  }
}

}  // namespace nibble::cpu
