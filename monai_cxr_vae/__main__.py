"""``python -m monai_cxr_vae``."""

import sys

from monai_cxr_vae.cli import main

sys.exit(main())
