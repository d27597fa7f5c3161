"""Credentials of the stand-in's user."""

import os

config = {
    "token_id": os.environ.get("MODAL_TOKEN_ID"),
    "token_secret": os.environ.get("MODAL_TOKEN_SECRET"),
}
