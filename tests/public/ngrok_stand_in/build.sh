#!/bin/bash
# build.sh FOLDER: in FOLDER, a signed apt repository with the stand-in as the package `ngrok`, the key as ngrok.asc, and another
# key, which signed nothing, as other.asc; in fingerprint that of the first.
set -euo pipefail
cd "$(dirname "$0")"

root=$1
work=$(mktemp -d)
trap 'gpgconf --kill gpg-agent; rm -rf "$work"' EXIT
export GNUPGHOME=$work/keys
mkdir -m 700 "$GNUPGHOME"

for who in ngrok other; do
  gpg --batch --quiet --passphrase '' --quick-generate-key "$who stand-in <$who@ngrok.test>" ed25519 sign never
done

install -D -m 755 agent.py "$work/deb/usr/local/bin/ngrok"
install -d "$work/deb/DEBIAN"
cat >"$work/deb/DEBIAN/control" <<CONTROL
Package: ngrok
Version: 3.99.0
Architecture: all
Maintainer: messaging-system tests <tests@ngrok.test>
Depends: python3, python3-yaml
Description: stand-in for the agent of ngrok, for tests
CONTROL

suite=$root/dists/buster
packages=main/binary-$(dpkg --print-architecture)
install -d "$root/pool" "$suite/$packages"
dpkg-deb --root-owner-group --build "$work/deb" "$root/pool/ngrok_3.99.0_all.deb" >/dev/null
(cd "$root" && apt-ftparchive packages pool >"$suite/$packages/Packages")
(cd "$suite" && apt-ftparchive -o APT::FTPArchive::Release::Suite=buster \
  -o APT::FTPArchive::Release::Components=main -o "APT::FTPArchive::Release::Architectures=$(dpkg --print-architecture)" release .) >"$work/Release"
gpg --batch --quiet --local-user ngrok@ngrok.test --clearsign --output "$suite/InRelease" "$work/Release"
for who in ngrok other; do gpg --armor --export "$who@ngrok.test" >"$root/$who.asc"; done
gpg --with-colons --list-keys ngrok@ngrok.test | awk -F: '$1 == "fpr" { print $10; exit }' >"$root/fingerprint"
