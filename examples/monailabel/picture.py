"""Draws served_map.png: a phantom film, what the server answers for it, and the answers over the film.

Usage: picture.py [URL], with a server of serve.sh running. The film is invented, so the picture may be shown to anyone.
"""

from __future__ import annotations

import io
import json
import sys
import urllib.request
import uuid
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from monai_cxr_vae.data.phantom import render

SEED, SIZE, FINDING = 6, (480, 400), "effusion"


def answer(url: str, film: bytes, show: str) -> np.ndarray:
    """What the server shows of a film that is sent along, uint8 (rows, columns)."""
    limit = uuid.uuid4().hex
    head = f'--{limit}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{json.dumps({"show": show})}\r\n'
    head += f'--{limit}\r\nContent-Disposition: form-data; name="file"; filename="film.png"\r\n\r\n'
    body = head.encode() + film + f"\r\n--{limit}--\r\n".encode()
    request = urllib.request.Request(f"{url}/infer/cxr_vae?output=image", body)
    request.add_header("Content-Type", f"multipart/form-data; boundary={limit}")
    with urllib.request.urlopen(request) as response:
        return np.asarray(Image.open(io.BytesIO(response.read())))


def main() -> None:
    """See the module."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    film = np.rint(render(SEED, SIZE, FINDING).image * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(film).save(file, format="PNG")
    heat, mask, reconstruction = (answer(url, file.getvalue(), s) for s in ("heatmap", "mask", "reconstruction"))
    over = np.repeat(film[..., None], 3, 2)
    over[mask == 1] = over[mask == 1] // 2 + np.array([127, 20, 20], np.uint8)
    panels = {"film": film, "reconstruction": reconstruction, "heatmap": heat, "mask over the film": over}
    page = Image.new("RGB", ((SIZE[1] + 8) * len(panels) - 8, SIZE[0] + 20), "white")
    for i, (title, picture) in enumerate(panels.items()):
        page.paste(Image.fromarray(picture).convert("RGB"), (i * (SIZE[1] + 8), 20))
        ImageDraw.Draw(page).text((i * (SIZE[1] + 8) + 4, 4), title, fill="black")
    page.save(Path(__file__).with_name("served_map.png"), optimize=True)


if __name__ == "__main__":
    main()
