"""What this package costs, and what it is compared with: see the README beside this file."""
