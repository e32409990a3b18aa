"""Pages of HTML: the head that all share, and how a page is filled in."""
