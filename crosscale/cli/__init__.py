"""The `crosscale` command: one file a verb, each parsing its options, calling the library and printing."""
