"""The worker's page in a real browser: hostile texts arrive as text, and no script of theirs runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from feedback.connectors.test_aws_template import HOSTILE, rendered

from humanward.feedback.connectors.template import render_template

CHROMIUM = shutil.which("chromium")
COUNT = "<!doctype html><meta charset=utf-8><script>window.run = 0; window.alert = () => window.run++</script>"
READ = """<p id=seen></p><script>
const shown = document.querySelector("crowd-text-ranking");
const texts = [shown.getAttribute("text"), ...JSON.parse(shown.getAttribute("responses"))];
const same = JSON.stringify(texts) === JSON.stringify(WANTED);
const seen = [same, texts.length, window.run, shown.getAttributeNames().length];
document.getElementById("seen").textContent = "seen" + JSON.stringify(seen);
</script>"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_hostile_texts_in_a_browser(tmp_path: Path) -> None:
    page = rendered(render_template(["helpful", "honest"]), "\n".join(HOSTILE), HOSTILE)
    # The element's own script is on the web, and the test looks at attributes alone.
    page = re.sub(r"<script src=[^>]*></script>", "", page, count=1)
    wanted = json.dumps(["\n".join(HOSTILE), *HOSTILE]).replace("<", "\\u003c")
    (tmp_path / "page.html").write_text(COUNT + page + READ.replace("WANTED", wanted), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", str(tmp_path / "page.html")], capture_output=True, text=True, timeout=120, check=True
    )
    (seen,) = re.findall(r"seen(\[[^]]*\])", done.stdout)
    assert json.loads(seen) == [True, len(HOSTILE) + 1, 0, 4]
