"""A look at a prepared data set: what is in it, in numbers and pictures, before anything is trained on it.

numbers.py   counts, bins and shares; arrays in, numbers out
nearest.py   nearest neighbours of items in stored features, and whether they make sense
pictures.py  thumbnails of items, or the reason why there is none
gather.py    all of these for a data set
terminal.py  a summary in a few lines for a terminal
style.py     a common style for all figures, and their PNG and SVG files
plots.py     the charts; sheets.py  grids of pictures with titles
page.py      an HTML page that loads nothing
"""
