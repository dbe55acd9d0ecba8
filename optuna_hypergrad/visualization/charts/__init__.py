"""What each figure shows, worked out from what is stored; no library that draws."""
