"""What must be fast, each with its plain reference beside it, chosen by platform and tested equal."""
