#!/bin/sh
# What cargo runs for rustc (RUSTC_WRAPPER, from tests/fuzz.sh): podd and its parsers of text and archives tell libFuzzer
# which edges they come through, and by what they compare. All else is built as always, and so only once for all builds.
#
# These are the flags of cargo-fuzz without a sanitizer, which a stable compiler lacks; podd's unsafe code is all in `sys`.
case " $* " in
    *" --crate-name podd "* | *" --crate-name tar_core "* | *" --crate-name toml "* | *" --crate-name toml_parser "* | *" --crate-name saphyr_parser "*)
        exec "$@" --cfg podd_fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares
        ;;
esac
exec "$@"
