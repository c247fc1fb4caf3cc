#include "backend/cuda/device.h"

#include <cuda_runtime_api.h>

namespace nibble::cuda {

DeviceList Devices() {
  DeviceList list;
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    list.why_none = driver == 0 ? "no NVIDIA driver on this machine: install one, or use a machine "
                                  "with a GPU"
                                : "the NVIDIA driver knows CUDA " + std::to_string(driver / 1000) +
                                      "." + std::to_string(driver % 1000 / 10) +
                                      ", older than this program's: update the driver";
    return list;
  }
  if (counted != cudaSuccess || count == 0) {
    list.why_none = std::string("no usable NVIDIA GPU: ") + cudaGetErrorString(counted);
    return list;
  }
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties = {};
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    list.devices.push_back({.index = index,
                            .name = properties.name,
                            .major = properties.major,
                            .minor = properties.minor,
                            .multiprocessors = properties.multiProcessorCount,
                            .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
                            .l2_bytes = properties.l2CacheSize});
  }
  if (list.devices.empty()) list.why_none = "the NVIDIA GPUs here do not answer: see nvidia-smi";
  return list;
}

}  // namespace nibble::cuda
