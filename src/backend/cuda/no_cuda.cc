// The stub for a build without CUDA.
#include "backend/cuda/device.h"

namespace nibble::cuda {

DeviceList Devices() {
  return {.devices = {},
          .why_none =
              "this program computes on CPUs: its GPU kernels are not behind `backend` yet (`make "
              "cuda` builds them alone, docs/cuda.md). Use `backend` cpu"};
}

}  // namespace nibble::cuda
