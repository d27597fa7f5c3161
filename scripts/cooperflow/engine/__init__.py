"""Access to the Docker engine (endpoint, containers, images, networks) and to Modal's sandboxes."""
