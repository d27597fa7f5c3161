"""What the stand-in knows of its user."""

import os

config = {
    "token_id": os.environ.get("MODAL_TOKEN_ID"),
    "token_secret": os.environ.get("MODAL_TOKEN_SECRET"),
}
