"""What people and systems touch: command line, notebook views, the demo."""
