"""The command line: parsing, inputs and outputs of a call, what is printed."""
