"""Write config/schema.json, with which editors check a config, from the config's model."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow import atomic_io, layout
from cooperflow.experiment import config_schema

PATH = layout.REPOSITORY / "config" / "schema.json"


def text() -> str:
    return json.dumps(config_schema.Config.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    atomic_io.write_text(PATH, text())
    sys.exit(0)
