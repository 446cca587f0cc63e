"""Files that are copied beside an export; they run without this package and never import it."""
