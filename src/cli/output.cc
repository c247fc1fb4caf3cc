#include "cli/output.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "base/current_error.h"
#include "nibble/error.h"

namespace nibble {
namespace {

[[noreturn]] void FailToPrint(int code) {
  if (code == EPIPE) {  // SIGPIPE is ignored, or it would have ended the process
    ::signal(SIGPIPE, SIG_DFL);
    ::raise(SIGPIPE);
  }
  throw Error(CodeOfErrno(code),
              fmt::format("stdout: cannot write the result: {}", std::strerror(code)));
}

}  // namespace

void OpenStandardStreams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) != -1) continue;
    // The lowest number that is free is the one asked about. Opened the wrong way round, so that it
    // fails as a closed one does.
    ::open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

void PrintText(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) FailToPrint(errno);
}

void PrintJson(const Json& document) {
  PrintText(document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void FlushOutput() {
  if (std::fflush(stdout) != 0) FailToPrint(errno);
}

TextTable::TextTable(std::vector<std::string> headings) { rows_.push_back(std::move(headings)); }

void TextTable::AddRow(std::vector<std::string> cells) {
  NIBBLE_CHECK(cells.size() == rows_.front().size());
  rows_.push_back(std::move(cells));
}

std::string TextTable::ToString() const {
  const auto is_number = [](const std::string& cell) {
    return cell == "-" ||
           (!cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) != 0 ||
                              cell[0] == '-' || cell[0] == '+'));
  };
  const size_t columns = rows_.front().size();
  std::vector<size_t> widths(columns, 0);
  std::vector<bool> numeric(columns, rows_.size() > 1);
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t c = 0; c < columns; ++c) {
      widths[c] = std::max(widths[c], rows_[r][c].size());
      if (r > 0 && !is_number(rows_[r][c])) numeric[c] = false;
    }
  }
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < columns; ++c) {
      if (c > 0) line += "  ";
      line += numeric[c] ? fmt::format("{:>{}}", rows_[r][c], widths[c])
                         : fmt::format("{:<{}}", rows_[r][c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
    if (r == 0) {
      for (size_t c = 0; c < columns; ++c)
        text += (c > 0 ? "  " : "") + std::string(widths[c], '-');
      text += "\n";
    }
  }
  return text;
}

}  // namespace nibble
