#!/usr/bin/env bash
# install_nvim.sh [PREFIX]   (default: .cache/nvim beside this repository's README)
#
# Makes PREFIX/bin/nvim a Neovim that has inline completion (0.12 or newer), for headless tests. The first of
# those on PATH that has it is linked to; the older one that pip installs for the tests has not. Otherwise the newest Debian packages of Neovim, with the C library they were
# built for, are unpacked under PREFIX from the mirror this machine's apt uses: no root, nothing installed,
# apt's own lists and sources untouched. Run again, it finds its work done.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
prefix=$(realpath -m -- "${1:-$repository/.cache/nvim}")
marker=.made-by-install_nvim.sh

# With a parser for its own help, which one that does not find its libraries lacks.
new_enough() {
  "$1" --clean --headless -c 'lua os.exit(vim.lsp.inline_completion and vim.treesitter.language.add("vimdoc") and 0 or 1)' \
    </dev/null >/dev/null 2>&1
}

die() {
  echo "install_nvim.sh: $1; install Neovim 0.12 or newer yourself and put it on PATH" >&2
  exit 1
}

if new_enough "$prefix/bin/nvim"; then
  echo "Neovim is in place: $prefix/bin/nvim"
  exit 0
fi
while IFS= read -r present; do
  new_enough "$present" || continue
  mkdir -p "$prefix/bin"
  ln -sfn "$present" "$prefix/bin/nvim"
  : >"$prefix/$marker"
  echo "Neovim of this machine is used: $present"
  exit 0
done < <(type -aP nvim || true)

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || die "no Neovim 0.12 on PATH, and no apt here to get one with"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | awk '/\/debian\/?$/ && !seen++')
[ -n "$mirror" ] || die "apt knows no Debian mirror here"
keyring=$(find /usr/share/keyrings -name 'debian-archive-keyring.*' -print -quit)
[ -n "$keyring" ] || die "Debian's archive keyring is missing"

# An earlier tree of ours is replaced; anything else is not ours to remove.
[ ! -d "$prefix" ] || [ -e "$prefix/$marker" ] || rmdir "$prefix" 2>/dev/null || {
  echo "install_nvim.sh: $prefix holds something else; name another folder" >&2
  exit 1
}

mkdir -p "$(dirname "$prefix")"
work=$(mktemp -d "$prefix.XXXXXX")
trap 'rm -rf "$work"' EXIT

# fetch SUITE: everything Neovim needs there, as .deb files. An apt of its own, whose dpkg has nothing
# installed, so that the C library is fetched too; proxies and certificates stay the machine's.
fetch() {
  rm -rf "$work/apt"
  mkdir -p "$work/apt"/{etc/apt,var/lib/apt/lists/partial,var/cache/apt/archives/partial}
  : >"$work/apt/status"
  echo "deb [signed-by=$keyring] $mirror $1 main" >"$work/apt/etc/apt/sources.list"
  cat >"$work/apt/apt.conf" <<CONF
Dir "$work/apt";
Dir::State::status "$work/apt/status";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Keep-Downloaded-Packages "true";
Binary::apt-get::APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
CONF
  apt-get -qq -c "$work/apt/apt.conf" update </dev/null &&
    apt-get -qq -c "$work/apt/apt.conf" install --yes --download-only neovim </dev/null >/dev/null
}

# unpack: the packages as a tree of their own, and a launcher that starts nvim with that tree's loader and
# libraries; LD_LIBRARY_PATH would reach the programs that Neovim starts.
unpack() {
  rm -rf "$work/tree"
  mkdir -p "$work/tree/bin"
  : >"$work/tree/$marker"
  for package in "$work"/apt/var/cache/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$work/tree"
  done
  rm -rf "$work"/tree/usr/share/{doc,locale,man,icons,applications,lintian}
  libraries=$(cd "$work/tree" && dirname "$(find usr/lib -name libc.so.6 -print -quit)")
  loader=$(cd "$work/tree" && find "$libraries" -name 'ld-linux*.so.*' -print -quit)
  # Neovim takes the loader for itself, and looks for its parsers in ../lib from there.
  ln -s . "$work/tree/usr/lib/lib"
  cat >"$work/tree/bin/nvim" <<LAUNCHER
#!/bin/sh
here=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
export VIMRUNTIME="\$here/usr/share/nvim/runtime"
exec "\$here/$loader" --argv0 "\$0" --library-path "\$here/$libraries" "\$here/usr/bin/nvim" "\$@"
LAUNCHER
  chmod +x "$work/tree/bin/nvim"
}

for suite in forky sid; do
  echo "Getting Neovim from Debian $suite ..."
  fetch "$suite" || continue
  unpack
  if new_enough "$work/tree/bin/nvim"; then
    rm -rf "$prefix"
    mv "$work/tree" "$prefix"
    echo "Neovim is in place: $prefix/bin/nvim ($("$prefix/bin/nvim" --version | head -n1))"
    exit 0
  fi
done
die "no Debian suite has a Neovim that is new enough"
