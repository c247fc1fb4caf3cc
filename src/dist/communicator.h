#pragma once

#include <cstdint>
#include <span>

namespace nibble {

// A group of ranks that compute one model together. Every rank makes the same calls in the same
// order, one thread a rank; a call returns when its result is there. Data moves, sums do not: no
// floating-point addition crosses from one rank to another.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int64_t rank() const = 0;  // in [0, size())
  virtual int64_t size() const = 0;

  // all = what every rank gave, rank after rank; counts[r] floats come from rank r, and are as many
  // as its `mine` has. `all` holds as many as all of them together.
  virtual void AllGather(std::span<const float> mine, std::span<const int64_t> counts,
                         std::span<float> all) = 0;
};

}  // namespace nibble
