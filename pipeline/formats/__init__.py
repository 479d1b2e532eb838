"""Formats that trainers read, one a file: each writes the files of a part of a set, and at the end what lists them."""
