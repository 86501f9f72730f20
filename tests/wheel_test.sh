#!/usr/bin/env bash
# Does the installed wheel work away from the repository? Build it by way of the sdist, install it into a fresh
# environment, leave the repository, fine-tune on the packaged smoke_cpu.yaml.
#
#   tests/wheel_test.sh light    borrows the dependencies of .venv
#   tests/wheel_test.sh full     installs all dependencies anew, several GB
set -euo pipefail
mode=${1:-light}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
main_python=$root/.venv/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "wheel-test: building"
"$main_python" -m build --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
wheel=$(echo "$work"/dist/*.whl)

echo "wheel-test: installing $(basename "$wheel") ($mode)"
python=$work/venv/bin/python
if [[ $mode == full ]]; then
  make --no-print-directory -C "$root" install VENV="$work/venv" EDITABLE= SOURCE="$wheel"
else
  "$main_python" -m venv "$work/venv"
  "$python" -m pip --disable-pip-version-check install --quiet --no-deps "$wheel"
  # A path file's folder joins the search path behind the new environment's own, and path files inside it (the
  # editable install of the repository is one) are not followed.
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$main_python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/borrowed.pth"
fi

cd "$work"
config=$("$python" - <<'EOF'
import sys
from importlib.resources import files
from pathlib import Path

import es_lightning
import es_lightning.callbacks
import es_lightning.tasks

for package in (es_lightning, es_lightning.callbacks, es_lightning.tasks):
    if not Path(package.__file__).is_relative_to(sys.prefix):
        sys.exit(f"{package.__name__} comes from {package.__file__}, not from the wheel in {sys.prefix}")
print(files("es_lightning.configs") / "smoke_cpu.yaml")
EOF
)
echo "wheel-test: es-lightning fit on the packaged $(basename "$config")"
"$work/venv/bin/es-lightning" fit -c "$config" --trainer.default_root_dir "$work/run"
echo "wheel-test: the wheel works"
