#include "backend/cuda/device.h"

#include <gtest/gtest.h>

namespace nibble::cuda {
namespace {

TEST(CudaDevices, AreListedOrTheirAbsenceIsExplained) {
  const DeviceList list = Devices();
  EXPECT_EQ(list.devices.empty(), !list.why_none.empty()) << list.why_none;
  for (const Device& device : list.devices) {
    EXPECT_FALSE(device.name.empty());
    EXPECT_GT(device.multiprocessors, 0);
    EXPECT_GT(device.memory_bytes, 0);
  }
}

}  // namespace
}  // namespace nibble::cuda
