"""What must be fast, each with its plain reference, chosen by platform and tested equal."""
