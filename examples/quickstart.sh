#!/usr/bin/env bash
# From a bare Python >= 3.11: set up .venv, train on built-in phantom films, reconstruct and score a DICOM folder.
# Usage: bash examples/quickstart.sh [OUT]      default: a new folder below ./output
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
out=${1:-output/quickstart-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$out"

echo "1/4 training on phantom films"
python -m monai.bundle run training --config_file bundle/configs/train.json \
    --output_dir "$out/train" --max_epochs 15 >"$out/train.log"

echo "2/4 a DICOM folder: phantom DX and a real CR film (RG1_UNCR of pydicom-data)"
cxr-vae phantom "$out/dicom" --count 12 --seed 1
python - "$out/dicom" <<'PYTHON'
import pathlib, shutil, sys
import data_store  # pydicom-data: the files are in the package
source = next(pathlib.Path(data_store.__file__).parent.rglob("RG1_UNCR.dcm"))
shutil.copy(source, sys.argv[1])
PYTHON

echo "3/4 reconstructing it"
cxr-vae reconstruct "$out/dicom" --output "$out/reconstructions" --weights "$out/train/model.pt"
cxr-vae sample --output "$out/samples" --count 8 --weights "$out/train/model.pt"

echo "4/4 scoring it"
cxr-vae score "$out/dicom" --output "$out/scores" --weights "$out/train/model.pt"

cat <<END

Derived DICOM, one object per film, and manifest.csv: $out/reconstructions
Heat maps, Structured Reports, scores on one page:     $out/scores/report.html
New films drawn from the latent space (PNG):           $out/samples
Weights, metrics.csv:                                  $out/train
Curves and pictures:                                   $venv/bin/tensorboard --logdir $out/train/tensorboard
END
