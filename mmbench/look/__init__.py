"""Looking at a prepared data set: what is in it, in numbers and pictures, before anything is trained on it.

numbers.py   counts, bins and shares; arrays in, numbers out
nearest.py   nearest neighbours of items in stored features, and whether they make sense
pictures.py  thumbnails of items, or why there is none
gather.py    all of the above of one data set
terminal.py  a few lines of it for a terminal
style.py     one look for all figures, and their PNG and SVG files
plots.py     the charts; sheets.py  grids of pictures with titles
page.py      one HTML page that loads nothing
"""
