"""The rows of the table of optimizers, by family. To add an optimizer, add a row to one of them."""
