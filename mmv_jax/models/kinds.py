"""Codes of the kinds of tokens of a row: 0 is padding, register r has kind REGISTER + r."""

CLS, REGISTER, PATCH = 1, 2, 100
