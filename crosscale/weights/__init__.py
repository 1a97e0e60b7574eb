"""Reading and writing other projects' weights: name rules, files, adaptation to another model's shapes."""
