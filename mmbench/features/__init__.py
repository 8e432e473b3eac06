"""Item features: texts and pictures -> one float32 array per (modality, encoder), with presence flags.

store.py     the arrays on disk: the only reader and writer of them
encoders.py  the interface of an encoder, and the registry of their names
text.py      `tfidf-svd`; image.py `colour-gradient`; neither needs a download
sources.py   an item's text or picture, or the reason why there is none
extract.py   source + encoder -> store, with a coverage report
imported.py  ready-made `.npy/.npz/.pt` arrays -> store
"""
