"""The process that claims trials and trains them on one device."""
