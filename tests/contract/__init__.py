"""What this workflow relies on of others, a small test for each fact: a break names its cause."""
