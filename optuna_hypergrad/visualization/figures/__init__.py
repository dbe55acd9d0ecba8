"""One module for each figure: it makes a chart of what a study stores."""
