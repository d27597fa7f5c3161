"""Text that a page may contain."""

from __future__ import annotations

import json

from cooperflow.report import safe_text


def test_script_json_cannot_end_its_script() -> None:
    text = safe_text.script_json({"a": "</script><!--\u2028\u2029&"})
    assert json.loads(text) == {"a": "</script><!--\u2028\u2029&"}
    assert not set("<>&\u2028\u2029") & set(text)
