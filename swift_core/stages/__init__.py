"""The stations of the main path, one readable function each."""
