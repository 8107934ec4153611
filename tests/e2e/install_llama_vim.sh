#!/usr/bin/env bash
# install_llama_vim.sh [PREFIX]   (default: .cache/llama.vim beside this repository's README)
#
# Makes PREFIX a checkout of llama.vim at the commit that tests/e2e/neovim/test_llama_vim.py was written for: from
# the Git repository that UMBRELLA_LLAMA_VIM names, or from GitHub. Needs git. Run again, it finds its work done.
set -euo pipefail

commit=a1c8e6e40cb45df59b78add5b65d575386832465
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
prefix=$(realpath -m -- "${1:-$repository/.cache/llama.vim}")
source=${UMBRELLA_LLAMA_VIM:-https://github.com/ggml-org/llama.vim}

die() {
  echo "install_llama_vim.sh: $1" >&2
  exit 1
}

if [ "$(git -C "$prefix" rev-parse HEAD 2>/dev/null)" = "$commit" ]; then
  echo "llama.vim is in place: $prefix"
  exit 0
fi
[ ! -e "$prefix" ] || die "$prefix holds something else; name another folder"
mkdir -p "$(dirname "$prefix")"
work=$(mktemp -d "$prefix.XXXXXX")
trap 'rm -rf "$work"' EXIT
git init -q "$work"
git -C "$work" fetch -q --depth 1 -- "$source" "$commit" ||
  die "$source cannot be reached; name a clone of it in UMBRELLA_LLAMA_VIM"
git -C "$work" checkout -q FETCH_HEAD
mv -T "$work" "$prefix"
trap - EXIT
echo "llama.vim is in place: $prefix"
