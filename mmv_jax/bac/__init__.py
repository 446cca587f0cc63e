"""Breast arterial calcification: from a mammogram to the area of calcified artery in mm²."""
