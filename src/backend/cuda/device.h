#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cuda {

struct Device {
  int index = 0;     // as cudaSetDevice takes it
  std::string name;  // "NVIDIA H200"
  int major = 0;     // compute capability
  int minor = 0;
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t l2_bytes = 0;
};

struct DeviceList {
  std::vector<Device> devices;
  std::string why_none;  // one sentence, with the remedy; empty if there are devices
};

// The GPUs this program can use. Never throws: without a GPU, without a driver or with an old
// driver the list is empty and says why. In a build without CUDA it is always empty (no_cuda.cc).
DeviceList Devices();

}  // namespace nibble::cuda
