# Judges a JSON report of Ginkgo: jq -r --rawfile skips F --rawfile conditions F --rawfile left F --argjson status N -f judge.jq REPORT
#
# Every spec that was chosen has passed, or is skipped by the suite itself as tests/critest/skips says. Anything else counts as
# failed: a failure, a skip that is not in that file, an entry of that file whose specs were chosen but not skipped, an error of
# the suite outside of its specs, something left in podd, and a run without a single spec. The last line is as cargo's.

def name: (.ContainerHierarchyTexts // []) + [.LeafNodeText] | join(" ");
def reason: (.Failure.Message // "");
def seconds: (.RunTime / 1e9 * 10 | round) / 10;
def indent: split("\n") | map("    " + .) | join("\n");

# Lines of `condition | pattern | reason`.
def entries:
  $skips | split("\n") | map(select(test("^\\s*(#|$)") | not) | split(" | "))
  | map({condition: (.[0] | gsub("\\s"; "")), pattern: (.[1] | gsub("^\\s+|\\s+$"; "")), why: (.[2:] | join(" | "))});

. as $suites
| ($conditions | split("\n")) as $hold
| (entries | map(select(.condition as $c | $hold | index($c)))) as $entries
| (map(.SpecReports) | add) as $reports
| ($reports | map(select(.LeafNodeType == "It"))) as $specs
# A spec that was not chosen is skipped as well, but without a word.
| ($specs | map(select(.State != "pending" and (.State != "skipped" or reason != "")))) as $chosen
| ($chosen | map(select(.State == "passed"))) as $passed
| ($chosen | map(select(.State == "skipped"))
    | map(name as $n | {name: $n, said: reason, entry: first(($entries[] | select(.pattern as $p | $n | test($p))), null)})) as $skipped
| ($skipped | map(select(.entry))) as $known
| [ ($reports[] | select((.State | IN("passed", "skipped", "pending") | not))
      | "FAILED: \(name)\(if .LeafNodeType == "It" then "" else " (\(.LeafNodeType))" end), \(.State) after \(seconds) s\n"
        + (reason | indent) + "\n" + ((.CapturedGinkgoWriterOutput // "") | split("\n") | .[-12:] | join("\n") | indent)),
    ($skipped[] | select(.entry == null) | "FAILED: \(.name) is skipped, and not in tests/critest/skips: \(.said)"),
    ($entries[] as $e | select([$chosen[] | select(name | test($e.pattern))] | length > 0)
      | select([$known[] | select(.entry == $e)] | length == 0)
      | "FAILED: tests/critest/skips has an entry that no longer occurs: \($e.condition) | \($e.pattern)"),
    ($left | split("\n")[] | select(. != "") | "FAILED: \(.)"),
    (if ($passed | length) == 0 then "FAILED: not one spec has passed" else empty end) ] as $found
| $found + (if $status != 0 and ($found | length) == 0 then ["FAILED: critest ended with status \($status)"] else [] end)
| . as $failures
| $failures[],
  ($known | group_by(.entry.pattern)[] | "skipped: \(length) (\(.[0].entry.condition): \(.[0].entry.why))", (.[] | "    \(.name)")),
  "critest: \($chosen | length) specs chosen of \($specs | length), \($passed | length) passed, \($known | length) skipped, seed \($suites[0].SuiteConfig.RandomSeed), \($suites | map(.RunTime) | add / 1e9 | round) s; slowest: "
    + ($passed | sort_by(-.RunTime) | .[:3] | map("\(.LeafNodeText) \(seconds) s") | join(", ")),
  "test result: \(if ($failures | length) == 0 then "ok" else "FAILED" end). \($passed | length) passed; \($failures | length) failed; 0 ignored; 0 measured; \(($specs | length) - ($chosen | length)) filtered out"
