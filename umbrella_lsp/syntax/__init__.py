"""What tree-sitter knows of documents and files. Grammars run in a process of their own, behind `client`."""
