#!/usr/bin/env bash
# Install what scripts/system-packages.txt lists, where this user may; elsewhere name what is
# missing and the suites that will not run. With CI=true a missing program is a failure.
set -euo pipefail
list="$(dirname "$0")/system-packages.txt"

# missing COLUMN: that column (1 package, 2 program, 3 suites) of every entry without its program (or file).
missing() {
    grep -v '^ *\(#\|$\)' "$list" | while IFS='|' read -r package program suites; do
        read -r package <<<"$package"
        read -r program <<<"$program"
        read -r suites <<<"$suites"
        if command -v "$program" >/dev/null || [ -e "$program" ]; then continue; fi
        case "$1" in
            package) printf '%s\n' "$package" ;;
            report) printf '  %s (package %s): not run: %s\n' "$program" "$package" "$suites" ;;
        esac
    done
}

wanted="$(missing package)"
[ -n "$wanted" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing system packages: ${wanted//$'\n'/ }"
    export DEBIAN_FRONTEND=noninteractive
    mapfile -t packages <<<"$wanted"
    apt-get update -qq >/dev/null || true # a stale list may still know the package
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
        echo "apt-get could not install them" >&2
fi

report="$(missing report)"
[ -n "$report" ] || exit 0
printf 'missing system programs:\n%s\n' "$report" >&2
[ "${CI:-}" != true ] || exit 1
