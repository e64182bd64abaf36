#!/usr/bin/env bash
# Fetches the built pages of the OHIF viewer into the folder that OHIF_PAGES names, in the cache unless told otherwise.
# Needs npm; prints the folder, and does nothing else where it is there.
set -euo pipefail
version=3.12.10 sum=fbabd410be33e5b9898931b725229b9da9553aac339914b5c29796d3aa5d4b2d
pages=${OHIF_PAGES:-${XDG_CACHE_HOME:-$HOME/.cache}/monai_cxr_vae/ohif-$version}
echo "$pages"
[ ! -d "$pages" ] || exit 0
mkdir -p "$(dirname "$pages")"
scratch=$(mktemp -d -p "$(dirname "$pages")")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
npm pack --silent "@ohif/app@$version" >/dev/null
echo "$sum  ohif-app-$version.tgz" | sha256sum --check --quiet
tar xzf "ohif-app-$version.tgz" package/dist
mv package/dist "$pages"
