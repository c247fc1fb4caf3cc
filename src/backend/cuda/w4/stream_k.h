#pragma once

#include <cstdint>

#include "backend/cuda/host_device.h"

// Work partition: tiles of an output, each a sum over groups of inputs, are distributed over a
// fixed number of CTAs so that all finish together, whatever the shape. A tile whose groups fall to
// several CTAs is summed in slices: the last slice owns the tile, waits for the others' partial
// sums and adds them in order. Nothing here depends on time: the same partition gives the same
// bits.
//
//   stream-K   all groups of all tiles in one list, groups fastest; each CTA gets a range of equal
//              it. At most one group more for one CTA than for another. Where a tile is cut depends
//              on how many tiles there are, so a token's bits may depend on its batch mates.
//   fixed      every tile is cut into `splits` slices of the same groups always; CTAs get equal
//              runs of slices. A token's bits depend on its own inputs alone.
//
// A CTA works through its run from the last tile to the first. What it begins but does not own, the
// head of its last tile, is thereby done first, and the tile it owns but did not begin comes last,
// when its head has long been done by the CTA before. A slice waits only for slices of CTAs with
// lower numbers, or for ones its own CTA has finished: there can be no deadlock as long as CTAs
// start in order.
namespace nibble::cuda {

struct Partition {
  int64_t num_tiles = 0;
  int32_t groups_per_tile = 0;
  int32_t num_ctas = 0;
  int32_t splits = 0;  // 0: stream-K; at most groups_per_tile

  NIBBLE_HOST_DEVICE constexpr int64_t num_units() const {
    return num_tiles * (splits == 0 ? groups_per_tile : splits);
  }
  NIBBLE_HOST_DEVICE constexpr int64_t units_per_tile() const {
    return splits == 0 ? groups_per_tile : splits;
  }
  // CTAs that have work.
  NIBBLE_HOST_DEVICE constexpr int64_t num_busy_ctas() const {
    return num_units() < num_ctas ? num_units() : num_ctas;
  }
  // CTA `cta` has units [FirstUnit(cta), FirstUnit(cta + 1)).
  NIBBLE_HOST_DEVICE constexpr int64_t FirstUnit(int64_t cta) const {
    const int64_t busy = num_busy_ctas();
    if (cta >= busy) return num_units();
    return cta * num_units() / busy;
  }
  // The last CTA whose run begins at or before `unit`.
  NIBBLE_HOST_DEVICE constexpr int64_t CtaOf(int64_t unit) const {
    return ((unit + 1) * num_busy_ctas() - 1) / num_units();
  }
  // Slots for partial sums that slices may need, one flag each.
  NIBBLE_HOST_DEVICE constexpr int64_t num_slots() const {
    return splits == 0 ? num_ctas : num_tiles * splits;
  }
};

// Groups [first_group, first_group + num_groups) of a tile.
struct WorkSlice {
  int64_t tile = 0;
  int32_t first_group = 0;
  int32_t num_groups = 0;  // 0: none left
  int32_t index = 0;       // among the tile's slices
  int32_t count = 1;       // of them; the one with index count - 1 owns the tile
  int64_t first_slot = 0;  // slice i of the tile keeps its partial sum in slot first_slot + i

  NIBBLE_HOST_DEVICE constexpr bool owns_tile() const { return index == count - 1; }
  NIBBLE_HOST_DEVICE constexpr int64_t slot() const { return first_slot + index; }
};

namespace stream_k_internal {

NIBBLE_HOST_DEVICE constexpr WorkSlice FixedSlice(const Partition& p, int64_t unit) {
  WorkSlice slice;
  slice.tile = unit / p.splits;
  slice.index = static_cast<int32_t>(unit % p.splits);
  slice.count = p.splits;
  slice.first_slot = slice.tile * p.splits;
  const int64_t groups = p.groups_per_tile;
  slice.first_group = static_cast<int32_t>(slice.index * groups / p.splits);
  slice.num_groups =
      static_cast<int32_t>((slice.index + 1) * groups / p.splits) - slice.first_group;
  return slice;
}

// The units of `cta` that belong to the tile of unit end - 1, and lie before `end`.
NIBBLE_HOST_DEVICE constexpr WorkSlice StreamedSlice(const Partition& p, int64_t cta, int64_t end) {
  const int64_t groups = p.groups_per_tile;
  const int64_t tile = (end - 1) / groups;
  const int64_t tile_begin = tile * groups;
  const int64_t run_begin = p.FirstUnit(cta);
  const int64_t begin = tile_begin > run_begin ? tile_begin : run_begin;
  const int64_t first_cta = p.CtaOf(tile_begin);
  WorkSlice slice;
  slice.tile = tile;
  slice.first_group = static_cast<int32_t>(begin - tile_begin);
  slice.num_groups = static_cast<int32_t>(end - begin);
  slice.index = static_cast<int32_t>(cta - first_cta);
  slice.count = static_cast<int32_t>(p.CtaOf(tile_begin + groups - 1) - first_cta + 1);
  slice.first_slot = first_cta;
  return slice;
}

}  // namespace stream_k_internal

// The slice that a CTA computes first; num_groups == 0 if it has nothing to do.
NIBBLE_HOST_DEVICE constexpr WorkSlice FirstSlice(const Partition& p, int64_t cta) {
  const int64_t begin = p.FirstUnit(cta);
  const int64_t end = p.FirstUnit(cta + 1);
  if (begin >= end) return {};
  if (p.splits == 0) return stream_k_internal::StreamedSlice(p, cta, end);
  const int64_t tile_begin = (end - 1) / p.splits * p.splits;
  return stream_k_internal::FixedSlice(p, tile_begin > begin ? tile_begin : begin);
}

// The one after `slice`; num_groups == 0 after the last.
NIBBLE_HOST_DEVICE constexpr WorkSlice NextSlice(const Partition& p, int64_t cta,
                                                 const WorkSlice& slice) {
  const int64_t begin = p.FirstUnit(cta);
  if (p.splits == 0) {
    const int64_t at = slice.tile * p.groups_per_tile + slice.first_group;
    if (at <= begin) return {};
    return stream_k_internal::StreamedSlice(p, cta, at);
  }
  // Slices of one tile in order, tiles from the last to the first.
  const int64_t tile_begin = slice.tile * p.splits;
  const int64_t next = tile_begin + slice.index + 1;
  if (next < p.FirstUnit(cta + 1) && next < tile_begin + p.splits) {
    return stream_k_internal::FixedSlice(p, next);
  }
  if (tile_begin <= begin) return {};
  const int64_t before = tile_begin - p.splits;
  return stream_k_internal::FixedSlice(p, before > begin ? before : begin);
}

// Tiles of a product of several experts, each with rows of its own: [expert][panel of the weight]
// [block of rows]. Blocks are fastest, so that a panel is read again while it is in the cache.
// `offsets` [num_experts + 1]: expert e has rows offsets[e] to offsets[e + 1].
struct ExpertTile {
  int32_t expert = 0;
  int32_t panel = 0;
  int32_t first_row = 0;
  int32_t num_rows = 0;  // at most row_block
};

NIBBLE_HOST_DEVICE constexpr int64_t CountExpertTiles(const int32_t* offsets, int32_t num_experts,
                                                      int64_t num_panels, int32_t row_block) {
  int64_t blocks = 0;
  for (int32_t e = 0; e < num_experts; ++e) {
    blocks += (offsets[e + 1] - offsets[e] + row_block - 1) / row_block;
  }
  return blocks * num_panels;
}

NIBBLE_HOST_DEVICE constexpr ExpertTile FindExpertTile(const int32_t* offsets, int32_t num_experts,
                                                       int64_t num_panels, int32_t row_block,
                                                       int64_t tile) {
  for (int32_t e = 0; e < num_experts; ++e) {
    const int32_t rows = offsets[e + 1] - offsets[e];
    const int64_t blocks = (rows + row_block - 1) / row_block;
    if (tile < blocks * num_panels) {
      const auto first = static_cast<int32_t>(tile % blocks) * row_block;
      return {e, static_cast<int32_t>(tile / blocks), offsets[e] + first,
              rows - first < row_block ? rows - first : row_block};
    }
    tile -= blocks * num_panels;
  }
  return {};
}

}  // namespace nibble::cuda
