#include "backend/cpu/algebra/openblas.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/check.h"
#include "base/log.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// Values of the CBLAS enumerations, which are part of its ABI.
enum Cblas : int {
  kRowMajor = 101,
  kNoTranspose = 111,
  kTranspose = 112,
  kUpper = 121,
  kNonUnit = 131,
  kLeft = 141,
  kRight = 142,
};

// Sets an environment variable for the life of this object, then restores it: child processes must
// see the user's own setting.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    if (value != nullptr) {
      setenv(name, value, 1);
    } else {
      unsetenv(name);
    }
  }
  ~ScopedEnvironment() {
    if (old_) {
      setenv(name_, old_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

// The kernel family for an instruction set, else by feature flags; null leaves the choice to the
// library.
const char* CoreFor(std::string_view instruction_set) {
#if defined(__x86_64__)
  if (instruction_set == "amx" || instruction_set == "avx512") return "SkylakeX";
  if (instruction_set == "avxvnni" || instruction_set == "avx2") return "Haswell";
  if (instruction_set == "portable") return "Prescott";  // runs everywhere
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return "SkylakeX";
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#else
  static_cast<void>(instruction_set);  // the library knows one family a machine
#endif
  return nullptr;
}

// What comes after the name in "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ...".
std::string VersionOf(std::string_view config) {
  config.remove_prefix(std::min(config.size(), config.find(' ') + 1));
  return std::string(config.substr(0, config.find(' ')));
}

int Int(int64_t value) { return static_cast<int>(value); }

}  // namespace

OpenBlas::OpenBlas(std::string_view instruction_set) : library_(nullptr, dlclose) {
  const char* const wanted = CoreFor(instruction_set);
  {
    const ScopedEnvironment core("OPENBLAS_CORETYPE", wanted);
    const ScopedEnvironment threads("OPENBLAS_NUM_THREADS", "1");  // no worker threads of its own
    library_.reset(dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE));
  }
  if (library_ == nullptr) {
    throw Error(
        ErrorCode::kNotFound,
        fmt::format("cannot load libopenblas.so.0 ({}); install Debian's libopenblas0-pthread",
                    dlerror()));
  }
  gemm_ = reinterpret_cast<decltype(gemm_)>(Symbol("cblas_sgemm"));
  syrk_ = reinterpret_cast<decltype(syrk_)>(Symbol("cblas_ssyrk"));
  trmm_ = reinterpret_cast<decltype(trmm_)>(Symbol("cblas_strmm"));
  reinterpret_cast<void (*)(int)>(Symbol("openblas_set_num_threads"))(1);
  version_ = VersionOf(reinterpret_cast<char* (*)()>(Symbol("openblas_get_config"))());
  core_ = reinterpret_cast<char* (*)()>(Symbol("openblas_get_corename"))();
  if (wanted != nullptr && core_ != wanted) {
    LogWarning("openblas_core found={} wanted={}: dense algebra may run far below its speed", core_,
               wanted);
  } else {
    LogDebug("openblas_core core={}", core_);
  }
}

void* OpenBlas::Symbol(const char* name) const {
  void* const symbol = dlsym(library_.get(), name);
  if (symbol == nullptr) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("libopenblas.so.0 has no function {}; nibble needs OpenBLAS 0.3.21 or "
                            "later",
                            name));
  }
  return symbol;
}

void OpenBlas::Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                    float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                    int64_t ldc) const {
  if (m == 0 || n == 0 || k == 0) return;
  gemm_(kRowMajor, transpose_a ? kTranspose : kNoTranspose, transpose_b ? kTranspose : kNoTranspose,
        Int(m), Int(n), Int(k), alpha, a, Int(lda), b, Int(ldb), 1.0f, c, Int(ldc));
}

void OpenBlas::GramUpper(int64_t n, int64_t k, const float* x, int64_t ldx, float* c,
                         int64_t ldc) const {
  if (n == 0 || k == 0) return;
  syrk_(kRowMajor, kUpper, kTranspose, Int(n), Int(k), 1.0f, x, Int(ldx), 1.0f, c, Int(ldc));
}

void OpenBlas::SubtractOuter(int64_t n, int64_t k, const float* x, int64_t ldx, float* c,
                             int64_t ldc) const {
  if (n == 0 || k == 0) return;
  syrk_(kRowMajor, kUpper, kNoTranspose, Int(n), Int(k), -1.0f, x, Int(ldx), 1.0f, c, Int(ldc));
}

void OpenBlas::MultiplyByUpper(bool transpose, int64_t m, int64_t n, const float* u, int64_t ldu,
                               float* b, int64_t ldb) const {
  if (m == 0 || n == 0) return;
  trmm_(kRowMajor, kRight, kUpper, transpose ? kTranspose : kNoTranspose, kNonUnit, Int(m), Int(n),
        1.0f, u, Int(ldu), b, Int(ldb));
}

void OpenBlas::NegatedUpperTimes(int64_t m, int64_t n, const float* u, int64_t ldu, float* b,
                                 int64_t ldb) const {
  if (m == 0 || n == 0) return;
  trmm_(kRowMajor, kLeft, kUpper, kNoTranspose, kNonUnit, Int(m), Int(n), -1.0f, u, Int(ldu), b,
        Int(ldb));
}

}  // namespace nibble
