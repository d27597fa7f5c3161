"""Container engines: endpoint, containers, networks, images and cheap probes."""
