#include "backend/cuda/cases/problem.h"

namespace nibble::cuda::bench {

std::vector<Case> AllCases() {
  std::vector<Case> all;
  for (auto* list : {GemmInt4Cases, NormCases, MoeCases, RopeCases, AttentionCases, LogitsCases,
                     ColumnBlockCases, LinalgCases}) {
    for (Case& one : list()) all.push_back(std::move(one));
  }
  return all;
}

}  // namespace nibble::cuda::bench
