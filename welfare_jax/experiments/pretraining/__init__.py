"""A small decoder from scratch, on a mixture of documents."""
