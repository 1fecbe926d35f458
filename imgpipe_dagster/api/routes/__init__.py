"""The paths, one module a system. A path parses, calls the layers below and answers."""
