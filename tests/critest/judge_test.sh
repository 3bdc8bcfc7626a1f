#!/bin/bash
# Tries the judge of the conformance suite's reports with reports made up for it: tests/critest/judge_test.sh
#
# It fails when a report that should pass does not, or one that should not does.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '# a comment\nno-x | Feature X | the host has no X | or so\n\nno-y | Feature Y | not here\n' >"$work/skips"

# A spec with that name and state, and what was said about it.
spec() {
    printf '{"ContainerHierarchyTexts":["suite"],"LeafNodeText":"%s","LeafNodeType":"%s","State":"%s","RunTime":1,"Failure":{"Message":"%s"}}' \
        "$1" "${4:-It}" "$2" "${3:-}"
}

# Judges a report of these specs, which are separated by commas: conditions, what is left in podd, critest's status, specs.
judge() {
    printf 'always\n%s\n' "$1" >"$work/conditions"
    printf '%s' "$2" >"$work/left"
    echo "[{\"SuiteConfig\":{\"RandomSeed\":1},\"RunTime\":1,\"SpecReports\":[$4]}]" |
        jq -r --rawfile skips "$work/skips" --rawfile conditions "$work/conditions" --rawfile left "$work/left" \
            --argjson status "$3" -f judge.jq
}

expect() {
    local line=$1 verdict
    shift
    verdict=$(judge "$@")
    grep -qE "$line" <<<"$verdict" || { printf 'expected %s of %s, not\n%s\n' "$line" "$*" "$verdict"; exit 1; }
}

good=$(spec one passed),$(spec 'not chosen' skipped)
expect '^test result: ok. 1 passed; 0 failed;.* 1 filtered out' no-y '' 0 "$good"
expect '^test result: ok. 1 passed; 0 failed;' no-x '' 0 "$good,$(spec 'Feature X works' skipped 'no X')"
expect '^skipped: 1 \(no-x: the host has no X \| or so\)$' no-x '' 0 "$good,$(spec 'Feature X works' skipped 'no X')"
expect '^test result: FAILED. 1 passed; 1 failed;' no-x '' 1 "$good,$(spec two failed 'it did not')"
expect '^FAILED: suite two, failed' no-x '' 1 "$good,$(spec two failed 'it did not')"
expect '^test result: FAILED. 1 passed; 1 failed;' no-x '' 1 "$good,$(spec two panicked)"
expect '^test result: FAILED. 1 passed; 1 failed;' no-x '' 1 "$good,$(spec '' failed 'no client' BeforeSuite)"
# A skip that the file does not have, or has for other hosts.
expect '^FAILED: suite Feature Z works is skipped, and not in' no-x '' 0 "$good,$(spec 'Feature Z works' skipped 'no Z')"
expect '^FAILED: suite Feature X works is skipped, and not in' no-y '' 0 "$good,$(spec 'Feature X works' skipped 'no X')"
# An entry whose specs pass.
expect '^FAILED: .* no longer occurs: no-x \| Feature X$' no-x '' 0 "$good,$(spec 'Feature X works' passed)"
expect '^FAILED: left in podd: pod$' no-x 'left in podd: pod' 0 "$good"
expect '^FAILED: not one spec has passed$' no-x '' 0 "$(spec 'not chosen' skipped)"
expect '^FAILED: critest ended with status 1$' no-x '' 1 "$good"
echo "the judge judges"
