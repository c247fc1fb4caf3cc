#pragma once

#include <string>

#include "base/json.h"
#include "nibble/quantize.h"

namespace nibble {

// Reports as JSON. A layer's report also travels through the resume ledger and back.
Json ToJson(const LinearReport& report);
Json ToJson(const LayerReport& report);
Json ToJson(const PhaseReport& report);
Json ToJson(const QuantizePlan& plan);
Json ToJson(const QuantizeReport& report);
LayerReport LayerReportFromJson(const Json& json, const std::string& where);

// quantization_report.jsonl: one object a line, each with "event": run, linear, layer, phase, file,
// result. `job` is the run's job description. Lines of linears, layers and files depend on the job
// alone; times are in lines of their own.
std::string ReportLines(const QuantizeReport& report, const Json& job);

// Human-readable: a line a layer, the Linears that gained least over rounding, warnings, time by
// phase beside its bound, and the verdict with the number of fallbacks in the last line.
std::string ReportTable(const QuantizeReport& report);
std::string PlanTable(const QuantizePlan& plan);

}  // namespace nibble
