"""One call of upstream's command, with our seams around it, watched to its end."""
