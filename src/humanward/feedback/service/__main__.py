"""``python -m humanward.feedback.service URL PORT``: the bare service on this machine, for benchmarks and tests."""

from __future__ import annotations

import sys

import uvicorn

from humanward.feedback.service.app import build_app
from humanward.feedback.service.settings import ServiceSettings
from humanward.feedback.store.session import Store

if __name__ == "__main__":
    url, port = sys.argv[1], int(sys.argv[2])
    application = build_app(Store(url), ServiceSettings(port=port))
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="error", access_log=False)
