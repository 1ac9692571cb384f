"""A small service with a page: text files go in, their figures come out, worked on by other processes."""
