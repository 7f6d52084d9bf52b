"""The command line: one file per verb, which parses the options, calls the library and prints."""
