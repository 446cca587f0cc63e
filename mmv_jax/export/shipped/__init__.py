"""Files that go beside an export and run without this package; they import nothing of it."""
