"""What is asked: the config, the pairs and runs it stands for, the data set, the fingerprint."""
