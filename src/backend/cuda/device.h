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
  std::string why_none;  // one sentence with what to do about it; empty if there are devices
};

// The GPUs this program can use. Never throws: a machine without one, without a driver or with an
// old driver is an answer. In a build without CUDA there are none (no_cuda.cc).
DeviceList Devices();

}  // namespace nibble::cuda
