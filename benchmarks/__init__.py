"""What is measured, one command each; see README.md. No part of the installed package."""
