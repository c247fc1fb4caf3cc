#!/usr/bin/env bash
# keep_ptxas_report.sh COMPILER … -o OBJECT …: runs the compiler; what ptxas -v says goes to OBJECT.ptxas (also when
# ccache repeats it), everything else to stderr as usual.
set -uo pipefail
object=
for ((i = 1; i < $#; ++i)); do
  [ "${!i}" != -o ] || { next=$((i + 1)) && object=${!next}; }
done
[ -n "$object" ] || exec "$@"
status=0
"$@" 2>"$object.ptxas" || status=$?
grep -vE '^(ptxas info |Function properties|    [0-9]+ bytes stack frame|$)' "$object.ptxas" >&2
exit "$status"
