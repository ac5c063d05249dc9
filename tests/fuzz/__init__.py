"""The project's own fuzzer: sound inputs are damaged at random and read as the commands read them; see `__main__`."""
