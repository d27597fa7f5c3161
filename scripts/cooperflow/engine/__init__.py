"""Container engines: endpoint, containers, local images and networks; Modal sandboxes."""
