"""Reports: from numbers to pictures to one self-contained HTML page."""
