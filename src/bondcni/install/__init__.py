"""Installing the product on a node: files, directories, owners."""
