#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace nibble {

// A private temporary file, for parsers that take a path; removed by the destructor.
class ScratchFile {
 public:
  ScratchFile(const std::string& name, std::string_view bytes)
      : folder_(std::filesystem::temp_directory_path() /
                ("nibble_fuzz_" + std::to_string(getpid()))),
        path_(folder_ / name) {
    std::filesystem::create_directories(folder_);
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  ScratchFile(ScratchFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path folder_;
  std::filesystem::path path_;
};

}  // namespace nibble
