"""Memory of decoded images goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import io, sys, threading
from PIL import Image
from viscot_core.hardware import return_large_blocks
from viscot_core.images.reading import read_image

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

return_large_blocks()
file = io.BytesIO()
Image.effect_noise((256, 256), 50).resize((3000, 3000)).convert("RGBA").save(file, "PNG", compress_level=1)
read_image(io.BytesIO(file.getvalue()), "x")
before = resident()
work = lambda: [read_image(io.BytesIO(file.getvalue()), "x", as_seen=True) for _ in range(2)] and None
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets an option of glibc")
def test_memory_of_large_images_goes_back_to_the_system() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 60, "megabytes more than after one image"
