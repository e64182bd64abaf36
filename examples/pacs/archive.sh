#!/usr/bin/env bash
# Starts Orthanc with the settings of orthanc.json, or of the file given, for this computer alone.
# Usage: archive.sh [SETTINGS]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Debian's Orthanc listens on every network for DICOM and HTTP and has no setting for that.
loopback=${XDG_CACHE_HOME:-$HOME/.cache}/monai_cxr_vae/loopback.so
mkdir -p "$(dirname "$loopback")"
cc -shared -fPIC -o "$loopback.$$" "$here/loopback.c"
mv "$loopback.$$" "$loopback"
LD_PRELOAD=$loopback exec Orthanc "${1:-$here/orthanc.json}"
