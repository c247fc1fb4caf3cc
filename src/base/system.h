#pragma once

#include <cstdint>
#include <string>

namespace nibble {

int64_t PeakResidentBytes();     // VmHWM of this process
int64_t AvailableMemoryBytes();  // MemAvailable, or the cgroup limit if lower
double CpuSeconds();             // user + system time of this process so far
std::string CpuModelName();

}  // namespace nibble
