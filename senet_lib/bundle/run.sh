#!/usr/bin/env bash
# Runs a study on a machine without internet access: joins the parts beside this file, installs what is missing, trains, and
# packs the finished runs. The same command continues, also if only some of the parts are beside it any more.
#
#   TIME_LIMIT=9m JOBS=2 bash run.sh
#
#   TIME_LIMIT   stop in time, for example 90s, 10m or 1h30m, installation included
#   JOBS         runs at a time (default 2)      THREADS   CPU threads per run
#   DEVICE       auto, cpu or cuda               WEIGHTS=1 pack the final weights, too
#   PYTHON       the interpreter (default python3)
#   WORK         where to keep everything (default: work beside this file)
#   OUT          where to pack finished runs (default: out beside this file); bring this folder back
set -uo pipefail
started=$(date +%s)
wanted=@PYTHON@

fail() {
  echo "error: $*" >&2
  exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
  fail "PYTHON=$python cannot be started: set PYTHON to Python $wanted"
[ "$version" = "$wanted" ] ||
  fail "PYTHON=$python is Python $version, but this bundle is for $wanted: set PYTHON to it, or bundle with PYTHON=$version"
mkdir -p "${WORK:=$here/work}" "${OUT:=$here/out}" || fail "WORK=$WORK or OUT=$OUT cannot be written: name other folders"
work=$(cd "$WORK" && pwd) && out=$(cd "$OUT" && pwd) || exit 2
sums=$here/SHA256SUMS
[ -f "$sums" ] || fail "$sums is missing: carry it, too"
bundle=$work/bundle-$(sha256sum <"$sums" | cut -c1-16)

# The parts may arrive one after the other; each is checked and kept
if [ ! -d "$bundle" ]; then
  mkdir -p "$work/parts" || exit 2
  parts=() missing=()
  while read -r digest name; do
    is_whole() { echo "$digest  $1" | sha256sum --check --status 2>/dev/null; }
    kept=$work/parts/$name
    parts+=("$kept")
    if ! is_whole "$kept"; then
      if [ ! -f "$here/$name" ]; then
        missing+=("$name")
        continue
      fi
      is_whole "$here/$name" || fail "$name is damaged: its sha256 is not the one in SHA256SUMS; carry it again"
      { cp "$here/$name" "$kept.tmp" && mv "$kept.tmp" "$kept"; } || exit 2
    fi
  done <"$sums"
  [ ${#missing[@]} = 0 ] || fail "missing: ${missing[*]}; carry them and start again, the other parts are kept in $work"
  rm -rf "$bundle.new" && mkdir "$bundle.new" || exit 2
  cat "${parts[@]}" | tar -xzf - -C "$bundle.new" || fail "the parts cannot be unpacked: is $work full?"
  mv "$bundle.new" "$bundle" && rm -rf "$work/parts"
fi

# An environment of its own beside the machine's packages, if PyTorch is one of them
environment=$bundle/environment
if [ ! -f "$environment/ready" ]; then
  shared=
  "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' && shared=--system-site-packages
  rm -rf "$environment"
  "$python" -m venv --without-pip $shared "$environment" ||
    fail "$python cannot create an environment: set PYTHON to one that has the module venv"
  # If this Python is itself that of an environment, its packages are not the system's
  [ -z "$shared" ] || "$python" - "$environment" <<'END' || exit 2
import site, sys
if sys.prefix != sys.base_prefix:
    lines = "".join(f"{folder}\n" for folder in site.getsitepackages())
    version = "python%d.%d" % sys.version_info[:2]
    open(f"{sys.argv[1]}/lib/{version}/site-packages/outer.pth", "w").write(lines)
END
  # Without pip's resolver: the machine's own packages need not suit one another, and nothing could be fetched
  wheels=("$bundle"/wheels/*.whl)
  [ ! -e "${wheels[0]}" ] || "$python" -m pip --isolated --disable-pip-version-check --python "$environment/bin/python" \
    install --quiet --no-index --no-deps --no-compile "${wheels[@]}" || fail "the packages cannot be installed: is $work full?"
  PYTHONPATH=$bundle/project "$environment/bin/python" -m senet_lib.bundle.needed "$bundle/needs.txt" ||
    fail "packages are missing here: bundle with INSTALLED=list, written by \`$python -m pip list --format=freeze\` here"
  touch "$environment/ready"
fi

outer=$("$python" -c 'import sys; print(sys.prefix)')/share/jupyter
export JUPYTER_PATH=$environment/share/jupyter:$outer${JUPYTER_PATH:+:$JUPYTER_PATH}
export PYTHONPATH=$bundle/project SENET_ROOT=$bundle/project SENET_CACHE=$work/cache PYTHONUNBUFFERED=1
unset PYTHONHOME
cd "$bundle/project" && exec "$environment/bin/python" -m senet_lib.bundle run --bundle "$bundle" --work "$work" \
  --out "$out" --started "$started" ${TIME_LIMIT:+--time-limit="$TIME_LIMIT"} --jobs="${JOBS:-2}" \
  ${THREADS:+--threads="$THREADS"} ${DEVICE:+--device="$DEVICE"} ${WEIGHTS:+--weights}
