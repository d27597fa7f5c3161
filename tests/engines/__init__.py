"""The engine matrix: demo and engine tests on the Docker engines of newer Debian releases."""
