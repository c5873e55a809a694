"""Tests in a real browser: the machine's own Chromium. Without one they are left out, and pytest's summary says so."""

import shutil

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: Where Chromium is, None where there is none.
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
