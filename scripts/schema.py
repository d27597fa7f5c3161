"""Write config/schema.json, which editors check a config against, from the config's own model."""

import json
import sys

from cooperflow import atomic, layout
from cooperflow.experiment import keys

PATH = layout.REPOSITORY / "config" / "schema.json"


def text() -> str:
    return json.dumps(keys.Config.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    atomic.write_text(PATH, text())
    sys.exit(0)
