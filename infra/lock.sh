#!/usr/bin/env bash
# Writes the hash-locked requirements of the image's three targets: bash infra/lock.sh [UV]
#
# The versions are those of requirements.lock, so that the image holds what the tests have seen; only tpu brings
# its own torch. The CPU build of torch is on pytorch.org, not on PyPI: UV_FIND_LINKS names a folder that has its
# wheel where the index cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${1:-uv}

lock() {
    "$uv" pip compile --quiet --upgrade --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
        --only-binary :all: --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
        --custom-compile-command "bash infra/lock.sh" --output-file "infra/requirements-$1.txt" "${@:2}"
}

constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
sed '/^torch==/d' requirements.lock >"$constraints"

code=(pyproject.toml infra/requirements-server.in)
if [[ -n ${UV_FIND_LINKS:-} ]]; then
    lock cpu --constraint requirements.lock --find-links "$UV_FIND_LINKS" "${code[@]}"
else
    lock cpu --constraint requirements.lock --torch-backend cpu "${code[@]}"
fi
unset UV_FIND_LINKS
# Inception needs torchvision, whose CPU build is not on PyPI either: the cpu image compares in the classifier's features.
lock gpu --constraint requirements.lock --extra inception "${code[@]}"
lock tpu --constraint "$constraints" --extra tpu --extra inception infra/requirements-tpu.in "${code[@]}"
lock build infra/requirements-build.in
