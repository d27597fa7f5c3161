"""Docker as a run meets it, and cheap looks at what a run needs from outside."""
